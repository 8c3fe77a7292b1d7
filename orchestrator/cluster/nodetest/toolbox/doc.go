//go:build linux

// Command toolbox is what containers of tests run: one static program with many names, since no image comes from the
// internet. Its name, or its first argument, says what it is: sh (a shell), files (cat, ls, stat, ...), facts about the process
// (id, status, ns, ...), servers and clients (serve, get, tcp, udp, resolve), parts of an application (keep, front), an API
// server (wardle), load (mem, burn) and behaviour (sleep, trap, count, exit). `toolbox help` lists them.
//
// A tool prints what a test reads: a fact per line, without decoration. It exits with 1 and a line on the standard error when
// something fails.
//
// # Concurrency
//
// A server answers every client in a goroutine of its own. Everything else is done by one.
package main
