// Package images keeps the images of a node: it pulls, imports, builds, exports and pushes them, and mounts them for
// containers.
//
// # What is on the disk
//
//	images.json      what images there are: names, digests, blobs, layers, pins
//	blobs/sha256/    manifests, configurations and compressed layers, by digest
//	layers/          unpacked layers, each a directory "fs" and a note
//	mounts/<key>/    the writable layer of a mount, and a note on it
//	used/            when an image was used last: times of empty files
//	ingest/          blobs that are on their way, and locks of what is done once
//	tmp/             operations: a locked file that names what one needs, and a directory of its own
//
// A layer is unpacked once and shared by all images and containers that have it. Most layers are the same whatever they lie
// on, and go by the digest of their content ("d-..."). A layer that goes through directories which it does not describe, or
// links to files below it, takes these from the layers below, and goes by the digest of the chain ("c-...").
//
// The compressed layers stay: they are what is pushed and exported, with the digests that registries know, and what layers are
// unpacked from again.
//
// # What a crash leaves
//
// A blob is synced before it has its name. A layer is unpacked under tmp, moved to its place when it is complete, and synced
// some seconds later, so that no pod waits for the disk: until then its note bears the start of the machine (boot ID), and a
// store that is opened after the next start drops it and unpacks it again when it is needed. A writable layer is never synced
// and does not outlive the machine; it does outlive every process, and Mount takes it up.
//
// images.json is replaced as a whole, and synced. What an operation had half done when its process died is removed by the next
// Open; only a part of a blob stays, for a day, to go on with.
//
// # Several processes
//
// Commands work on a store while an agent has it open, and nothing tells one from the other. The file "lock" is held for the
// moment in which the index is changed or something is removed. An operation names what it needs in its own file, which it
// holds locked, before it looks whether it is there: a collection in any process spares that, and when the process dies, the
// kernel lets go. A blob is downloaded under a lock on its own file, and whoever waits for it finds it there, or goes on with
// it if the other one gave up.
//
// # Collection
//
// Remove and Prune drop blobs and layers that no image, no mount and no running operation needs. The layers of a mount stay
// until Unmount, even if the image is gone. Prune spares images that are pinned or mounted.
//
// # Registries
//
// Package registry says how they are reached: mirrors, credentials, time. An image is pulled from the first place that has it;
// the registry is always asked for the manifest, so a tag that moved is followed. Of an index the manifest that suits the
// platform best is taken, and RepoDigests has the digest of the index, which is the same on all platforms.
//
// # Where it works
//
// Layers are unpacked and mounted by root on Linux. Anybody can pull, build, import, export and push; what was put in without
// unpacking is unpacked by Mount.
//
// # Concurrency
//
// All methods may be called from any goroutine. Calls of Mount and Unmount for one key wait for each other. Progress functions
// are called by one goroutine at a time. Close waits for background work, not for calls that run.
package images
