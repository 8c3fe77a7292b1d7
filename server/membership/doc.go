// Package membership knows who is in the cluster: the members, those that were removed and never may return, the version
// that the cluster runs at, and whether a downgrade is under way.
//
// # Model
//
// A Cluster starts either from what is stored (Load) or from what the configuration says (NewFromInitialCluster,
// AdoptIDs). Afterwards it changes only by committed entries of the log, which the apply goroutine hands over: Add,
// Promote, Remove, UpdateRaftAttributes, SetAttributes, SetVersion, SetDowngrade. Every such change is written to the
// buckets before the call returns.
//
// Members that come from the configuration are known (Members lists them, peers can be dialled) but not applied: the
// entries with which raft founds a cluster add the same members again, and ValidateConfigurationChange must accept them.
// It looks at applied members alone, which are exactly those in the bucket.
//
// # Identities
//
// The id of a member is the first 8 bytes, big endian, of the SHA-1 of its peer URLs (sorted, concatenated) followed by
// the cluster token if it is a founding member, or by the Unix time in decimal digits if it is added later. The id of a
// cluster is the same of its founding members' ids (sorted, 8 bytes big endian each).
//
// # Layout
//
// The same as etcd 3.7's; ids are in hexadecimal digits without leading zeros:
//
//	bucket            key              value
//	members           id               {"id":1,"peerURLs":["http://..."],"isLearner":true,"name":"a","clientURLs":["http://..."]}
//	members_removed   id               removed
//	cluster           clusterVersion   3.7.0
//	cluster           downgrade        {"target-version":"3.6.0","enabled":true}
//
// The context of a configuration change is the member's JSON with "isPromote" added.
//
// # Invariants
//
//   - A removed id is never added again.
//   - An applied member is in the members bucket with the same contents, and no other is.
//   - The cluster version is not newer than this program.
//
// # Concurrency
//
// A Cluster may be used by any number of goroutines; one mutex guards it, and what it returns are copies. Changes come
// from one goroutine at a time. Buckets are called with the mutex held and must not call back.
package membership
