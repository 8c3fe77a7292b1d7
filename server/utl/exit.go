package utl

import "errors"

// Exit statuses, those of etcdutl.
const (
	// ExitError is any failure without a status of its own.
	ExitError = 1
	// ExitBadFeature is an output format that does not exist, or not for this result.
	ExitBadFeature = 4
	// ExitBadArgs is wrong arguments or flags that contradict each other.
	ExitBadArgs = 128
)

// exitError is an error with the exit status that it leads to.
type exitError struct {
	code int
	err  error // nil if everything was said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// ExitCode is the process's exit status.
func (e *exitError) ExitCode() int { return e.code }

func exit(code int, err error) error { return &exitError{code, err} }

func badArgs(text string) error { return exit(ExitBadArgs, errors.New(text)) }

// withCode gives err a status, unless it has one.
func withCode(code int, err error) error {
	var e *exitError
	if err == nil || errors.As(err, &e) {
		return err
	}
	return exit(code, err)
}
