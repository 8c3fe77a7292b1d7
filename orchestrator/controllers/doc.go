// Package controllers holds the control loops of the cluster, a file each.
//
// # The shared pattern
//
// A reflector lists the objects of a kind and then watches them. What it sees goes into a delta queue, which holds one entry
// per object, however often it changes. An informer takes entries out, keeps the newest form of each object in an indexer
// (by namespace, and by what a controller asks for), and calls handlers. All of that is client-go's; informers are shared by
// all controllers of a process.
//
// A handler does one thing: it puts the key of the object that has to be looked at, often the owner of the one that changed,
// into the controller's work queue. The queue holds a key once, gives it to one worker at a time, and brings it back later,
// and ever later, when a worker failed. See loop.
//
// A worker is given a key and nothing else. It reads what is wanted and what there is from the indexers, compares, and asks
// the API server for what is missing. It must therefore converge from any state: it does not know what happened, only what
// is. A controller may be stopped anywhere and be started anywhere else.
//
// The indexers are behind the API server. A controller that creates objects notes what it asked for and does not act on the
// same key again until it has seen that, or a while has passed; see expectations.
//
// # Concurrency
//
// Objects from indexers are shared and never changed: copy first. Every controller has some workers, which never work on
// the same key at once.
package controllers
