// Package collect removes the images that no pod of a node needs.
//
// # Model
//
// A round looks at all images and notes when each was first seen and when it was last in use: by a container, by a pod that is to
// run, or because it is pinned. When the file system of images is fuller than the high threshold, images that are not in use go, those
// that were unused for longest first, until it is as empty as the low threshold. An image that came a short while ago stays, for it
// was pulled for somebody; one that nobody has used for the maximum age goes in any case, if there is such an age.
//
// Reclaim removes all that may go, and dead containers before, whose images are not in use then: a node that runs out of disk does so
// before it ends a pod.
//
// What is noted is lost with the process: ages count from its start.
//
// # Concurrency
//
// Run is called once. Reclaim may be called from any goroutine; rounds wait for each other.
package collect
