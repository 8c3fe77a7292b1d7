// Package storage is what the scheduler knows of claims, volumes, storage classes and CSI drivers, and what it has decided
// about them.
//
// # Model
//
// A Table holds the objects that the API server has, and the decisions about volumes that are on their way to it. A
// claim that waits for its first consumer is either matched with a volume that is there, or a node is selected on which a
// volume will be made for it. From the moment of the decision until the API server shows it, the Table answers as if it did
// already: the volume is taken, the claim has its node. So the next pod, which is decided before the first is bound, does not
// get the same volume.
//
//	Hold      pod p: volume v for claim c, node n for claim d
//	Volume(v) is reserved for c; Claim(d) has the annotation of n
//	Set(v')   v' is reserved for c by the API server: nothing is left to be held
//	Release   pod p is not placed: v and d are free again, unless another pod holds them, too
//
// Only what differs from the objects is held, and it is forgotten as soon as the objects say the same, or are gone.
//
// # Concurrency
//
// A Table belongs to one goroutine, except for Watch, which any goroutine may call, and the Watches that it returns. During an
// attempt, which changes nothing, several goroutines may read it.
package storage
