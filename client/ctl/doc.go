// Package ctl is the command line client: the verbs, flags, outputs and exit statuses of etcdctl 3.7.
//
// # Model
//
// A command is a small function. It reads its arguments and flags, makes its calls on a client, and returns a result:
// a message of the API, or one of the result types of result.go where the message alone does not say enough (which
// member was removed, which endpoint answered). A [Printer] turns results into text or bytes; there is one for each
// output format, and commands do not know which. What cannot be printed in a format is an error with ExitBadFeature,
// after the call was made, as in etcdctl.
//
// [Command] returns a command that parses nothing: it hands its arguments to a command tree of its own, whose root is
// called etcdctl. Hence help texts, completion scripts and abbreviated verbs are those of a program of that name,
// however deep in another program's tree the command hangs.
//
// # Flags and environment
//
// Every global flag has an environment variable: ETCDCTL_ and the flag's name in capitals, with underscores. To give
// both is an error. ETCDCTL_API is accepted and means nothing. Other variables of that prefix are warned about.
//
// # Errors
//
// A command that fails returns an error with an ExitCode method and has written nothing about it; whoever executes the
// command prints it, unless its text is empty because everything was said before. The codes are those of etcdctl.
//
// # Concurrency
//
// A command runs on one goroutine, except for watch -i (one printer goroutine for each watch; a lock makes responses
// whole), endpoint health (one goroutine for each endpoint) and check (one for each simulated client). Everything is
// over when the command returns, but for the reader of standard input. Executing a command sets cobra's global
// EnablePrefixMatching; who executes several at once sets it beforehand.
package ctl
