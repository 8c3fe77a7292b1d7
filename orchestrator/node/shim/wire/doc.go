// Package wire is what the shim and its clients say to each other over a unix socket: the types of the API, and the frames
// that carry them.
//
// Every call has a connection of its own. A frame is a length of four bytes, big endian, and that many bytes of JSON. The
// client sends one Request and reads one Reply; a subscription to events reads Replies until it hangs up, and a call with
// streams sends the files of its standard streams along with its first frame (SCM_RIGHTS), so that no byte of them passes
// through a frame.
//
// # Concurrency
//
// A Conn is used by one goroutine that reads and one that writes at a time. The types are plain data.
package wire
