// Package zxcvbn is the other name under which the engine has the package.
package zxcvbn

import "github.com/nbutton23/zxcvbn-go"

// PasswordStrength is that of the other.
var PasswordStrength = zxcvbn.PasswordStrength
