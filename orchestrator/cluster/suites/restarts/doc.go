// Package restarts holds tests of what becomes of pods when keelson ends in order, or is killed, and starts again: nothing, as
// far as they can tell. They run real pods; see package nodetest.
//
// # Concurrency
//
// Each test ends and starts the program, so they run one after the other.
package restarts
