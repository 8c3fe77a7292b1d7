// Package invariants checks what must always hold, in builds with the tag invariants only: checks that are too dear for
// production.
//
// # Concurrency
//
// Check may be called from any goroutine.
package invariants

import "fmt"

// Check panics if cond does not hold. Arguments are evaluated also when checks are off; guard dear ones with Enabled.
func Check(cond bool, format string, args ...any) {
	if Enabled && !cond {
		panic(fmt.Sprintf("broken invariant: "+format, args...))
	}
}
