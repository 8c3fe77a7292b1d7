// Package overlay mounts directories over each other with overlayfs.
//
// # How
//
// The mount is built with fsopen, fsconfig and move_mount, one call for every layer, so that the number of layers is not
// bound by the size of a page. A kernel without "lowerdir+" (before 6.7) gets the options in one string, with the layers
// relative to the directory that holds them, which is good for about fifty.
//
// For a user namespace the lower layers are shown through id-mapped mounts: a file of root in the image belongs to the
// namespace's root, nothing is copied, and the layers stay shared. That needs Linux 5.19.
//
// # Options
//
// volatile: a writable layer need not outlive the machine, so nothing in it is ever synced, and sync(2) in a container is
// cheap. After a crash the kernel refuses to mount such a layer again until its marker is removed: Mount does that, the caller
// decides whether the layer is still good (it is, unless the machine itself went down). index=off: upper directories are used
// by one mount at a time, and layers are shared by many. metacopy=off: no file may consist of attributes only, which an image
// could abuse. redirect_dir=on: a container can rename directories of its image.
//
// # Concurrency
//
// All functions may be called from any goroutine; calls about one target must not overlap.
package overlay
