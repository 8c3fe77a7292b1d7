// Package images keeps the images of a node: it pulls, imports, builds, exports and pushes them, and mounts them for
// containers.
package images
