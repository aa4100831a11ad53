// Package zxcvbn judges how hard a text is to guess, in place of the package of this name: that one reads its word lists
// at every start of the engine, which takes as long as all the rest of a start. The engine asks for one thing, whether a
// value that `pulumi config set` is to write in plain is a secret.
package zxcvbn

import "math"

// printable counts the characters that a text can be made of.
const printable = 95

// Match is the answer.
type Match struct{ Entropy float64 }

// PasswordStrength gives the most bits of entropy that a text of this length can have: the engine refuses what it would
// refuse, and words of a dictionary too.
func PasswordStrength(text string, _ []string) Match {
	return Match{Entropy: float64(len(text)) * math.Log2(printable)}
}
