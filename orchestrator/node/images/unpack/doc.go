// Package unpack turns the tar of an image's layer into a directory that overlayfs takes as a lower one.
//
// # What it does
//
// Files, directories, links, devices and fifos are made with their owners, modes, times and extended attributes. A whiteout
// (".wh.name") becomes a character device 0/0 and an opaque marker (".wh..wh..opq") the attribute trusted.overlay.opaque,
// which is how overlayfs writes them. A whiteout hides what lies below the layer only: an entry of the same layer stays,
// whatever the order of the two.
//
// Nothing is made outside of the directory: every path is resolved below an open root by the kernel (openat2), symbolic links
// as if that root were "/", and no entry is ever written through a link at its last element. Attributes that overlayfs or the
// kernel's security modules would trust (trusted.*, security.* but for capabilities, user.overlay.*) are dropped, so that an
// image cannot forge them.
//
// # Layers that lean on others
//
// Most layers list every directory that they go through; such a layer is the same wherever it lies and is unpacked once. A
// layer with "usr/bin/x" but without "usr" takes the attributes of usr from the layers below, and one with a hard link to a
// file of a layer below takes a copy of it. Without Options.Parents these end with ErrNeedsParents.
//
// # Concurrency
//
// Calls on different directories are independent. While a directory is unpacked nobody else may write to it.
package unpack
