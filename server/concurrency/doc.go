// Package concurrency serves locks and elections: a member waits in the queue on a client's behalf.
//
// A lock or an election is a prefix of keys, a queue in the order of their creation. Each key belongs to a lease, and is deleted
// with it; the first one is the holder or leader. The keys are the ones that the client libraries make (client/concurrency), so
// those who wait by themselves and those who let a member wait stand in one queue.
//
// # Concurrency
//
// Methods are called from any number of goroutines. A call that waits costs its goroutine and one watch of one key.
package concurrency
