// Package volume makes the volumes of pods on their node: directories, memory, files from the API, claims and images.
//
// # On disk
//
//	<Dir>/<uid>/volumes/kubernetes.io~<kind>/<name>   a volume of a pod
//	<Dir>/<uid>/volumes/kubernetes.io~csi/<name>.json which persistent volume a pod uses (see claimed)
//	<Dir>/<uid>/volume-subpaths/<volume>/<container>/<n>  a subPath, bound there by way of a descriptor
//	<Mounts>/<persistent volume>/globalmount           a persistent volume of ours, mounted once for all pods of the node
//
// What there is on disk and in the table of mounts is the truth. All of it can be made again or taken away without knowing
// what an earlier process did: Setup, Mounts and Teardown are idempotent, and a crash between any two steps is mended by the
// next call.
//
// # Files from the API
//
// Volumes of ConfigMaps, Secrets, projections and the downward API are directories of links:
//
//	colour -> ..data/colour
//	..data -> ..2026_01_02_15_04_05.123456
//
// A new version is written beside the old, and ..data is turned to it by one rename: a reader that opens files through ..data
// sees one version or the other. Objects that are referred to are watched one by one, by name, for as long as a pod needs
// them; immutable ones are not. Tokens are renewed after four fifths of their life.
//
// # Safety
//
// Nothing is removed through a mount: directories go when the table of mounts has nothing below them, and removal does not
// cross devices. A subPath is resolved by the kernel beneath its volume, and what was opened is what is mounted, whatever a
// container does to the path meanwhile. Ownership is changed by way of descriptors that follow no links.
//
// # Concurrency
//
// All methods may be called from any goroutine; those for the same pod wait for each other, as do those that need the same
// persistent volume. Run renews files until its context ends; it is called once.
package volume
