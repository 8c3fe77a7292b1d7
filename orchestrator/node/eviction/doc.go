// Package eviction protects a node that runs out of memory, disk or processes: it tells which pressure the node is under, and ends
// pods, the least deserving first, until there is enough again.
//
// # Model
//
// A signal is how much of something is left: memory.available, nodefs.available, nodefs.inodesFree, imagefs.available,
// imagefs.inodesFree, pid.available. A hard threshold of memory.available is also one of allocatableMemory.available: of the memory
// that all pods may use together, so that pods are evicted before the kernel kills some container of one of them. A threshold is met when less is left than it says, as a quantity or as a percentage of all
// there is. Once met it stays so until its minimum reclaim is there, too. A hard threshold is acted on at once, a soft one when
// it has been met for its grace period.
//
// A threshold that is met, grace period or not, puts the node under pressure (MemoryPressure, DiskPressure, PIDPressure), which lasts
// until none has been met for the transition period, so that the node does not flap.
//
//	signals ─> Core.Observe ─> pressure (Node's conditions, admission)
//	                       └─> thresholds to act on ─> reclaim of dead containers and unused images (disks only)
//	                                               └─> Choose ─> one pod, and when that has ended, the next look
//
// Core and Choose are pure: what they answer follows from what they are told. A Manager feeds them.
//
// # Ranking
//
// Pods that use more than they request come first, of these the one of the least priority, of equal ones that which uses most above
// its request. For processes only priority and number count. Static pods and pods of critical priority are never evicted.
//
// # Limits
//
// Apart from thresholds, a pod ends that uses more of the node's disk than its limits say: those of an emptyDir, of a container, or of
// all containers together.
//
// # Concurrency
//
// A Core belongs to one goroutine. A Manager's Run is called once; Pressure and Admit may be called from any goroutine.
package eviction
