//go:build !(linux && cgo)

package shim

// Available tells why this build cannot run containers.
func Available() error { return ErrUnavailable }

// Seccomp tells whether this build can apply seccomp profiles.
func Seccomp() bool { return false }

// Reexec has nothing to do in this build.
func Reexec() bool { return false }
