//go:build !embedshim

package program

// embedded is the program, which this build does not hold.
var embedded []byte
