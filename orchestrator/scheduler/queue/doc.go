// Package queue holds the pods that wait for a node.
//
// # Model
//
// A pod is in exactly one place. In the active queue it is ready, in the order of the QueueSort plugin. In the back-off
// queue it is ready too but failed a short while ago; there are two of them, one for pods that were rejected and one
// for those that met an error. Unschedulable pods wait for an event that may help them, gated pods for a PreEnqueue
// plugin. Pop takes the next pod, from the active queue, and, if that is empty, from the first back-off queue, for an
// idle scheduler gains nothing from a pause. A popped pod is in flight until Return puts it back or Done lets go of it.
//
// Move tells the queue of an event. It reaches only the pods that a plugin rejected whose hints cover the event, and
// only those for which the hint says that it may help; unschedulable pods are kept by plugin so that others cost
// nothing. Events that happen while a pod is in flight are kept, and Return holds them against the plugins that
// rejected the pod.
//
// A nomination is a node that a pod made room on by preemption; the queue keeps them until the pod is placed or gone.
//
// # Concurrency
//
// A Queue belongs to one goroutine. It neither blocks nor looks at a clock: whoever owns it passes the time, and calls
// Flush when the time that the last Flush returned has come.
package queue
