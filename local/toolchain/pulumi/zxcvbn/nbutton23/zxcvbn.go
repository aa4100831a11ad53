// Package zxcvbn judges how hard a text is to guess, in place of the package of this name: that one reads its word lists
// at every start of the engine, which takes as long as all the rest of a start. The engine asks for one thing, whether a
// value that `pulumi config set` is to write in plain is a secret.
package zxcvbn

import "math"

// Match is the answer.
type Match struct{ Entropy float64 }

// PasswordStrength gives the bits of entropy of a text in which nothing is a word or a pattern. It is the most that the
// package itself finds, so whatever that refuses is refused, and some words too.
func PasswordStrength(text string, _ []string) Match {
	digits, lower, upper, symbols := 0, 0, 0, 0
	for _, each := range text {
		switch {
		case '0' <= each && each <= '9':
			digits = 10
		case 'a' <= each && each <= 'z':
			lower = 26
		case 'A' <= each && each <= 'Z':
			upper = 26
		default:
			symbols = 33
		}
	}
	size := max(digits+lower+upper+symbols, 1)
	return Match{Entropy: float64(len(text)) * math.Log2(float64(size))}
}
