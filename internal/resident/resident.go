// Package resident gives memory back to the system that a start needed and the work after it does not.
//
// A program of many packages touches nearly all of its code and constants while these are initialised, and a process that
// then rests keeps them in its resident set, beside the garbage of the start. Neither is lost when it is given back: the heap is
// collected first, and the pages of the executable, which nobody can write to, stay in the page cache and are mapped again when
// they are touched.
//
// # Concurrency
//
// Trim may be called at any time, from any goroutine.
package resident

import "runtime/debug"

// Trim collects garbage, and gives back to the system what the heap does not use and the pages of the executable.
func Trim() error {
	debug.FreeOSMemory()
	return unmap()
}
