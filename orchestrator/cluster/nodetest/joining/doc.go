// Package joining tests how machines become nodes and stop to be nodes: with a token, and by keelson node reset.
//
// # Concurrency
//
// Tests that start and end programs follow one another.
package joining
