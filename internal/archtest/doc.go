// Package archtest holds the tests that keep the design: which package may import which, that every package is
// documented, and that functions, files, structs and interfaces stay small.
//
// Exceptions to the size rules are listed with their present size in testdata/ratchet.txt. They may shrink and go, not
// grow: a change that needs a new one should be split instead.
package archtest
