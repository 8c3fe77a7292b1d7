// Package scheduler places pods on nodes: the running part around package core, which decides.
//
// # Model
//
// Informers post what they see into a mailbox. One goroutine empties it into the cache and the queue, takes the next
// pod from the queue, brings the snapshot up to the cache, and asks the core. If there is a node, the pod is assumed on
// it and its binding is written in the background, so that the next pod can be decided at once; if the binding fails,
// the assumption is taken back and the pod goes back to the queue. If there is no node, the pod goes back to the queue,
// and its condition, an event, and, if the core proposed a preemption, the deletion of its victims are written in the
// background.
//
// Between the assumption and the binding a pod may wait for volumes (PreBind). It takes no part of the requests that may be under
// way meanwhile, and gives up when it is deleted. What was decided about volumes is held in package storage until the API
// server shows it; a scheduler that starts again finds it in the claims and volumes.
//
// Of a pod's status only the newest version is ever written, one write at a time, and none once its binding began.
//
// Explain answers, for one pod, what every plugin says about every node.
//
// # Concurrency
//
// Queue, cache, snapshot and core belong to the goroutine of Run. Others reach them through the mailbox. At most a fixed
// number of writes to the API server are under way; a pod that waits for permission, or for volumes, takes no part of that. Reserve and
// Unreserve are called on the goroutine of Run, the plugins after them on others.
package scheduler
