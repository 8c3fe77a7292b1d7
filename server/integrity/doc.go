// Package integrity compares, all the time, what the members of a cluster have applied, and gives a member whose data differ new
// ones.
//
// # Comparing
//
// The store keeps an incremental hash of its key space at recent revisions (mvcc.Store.Sum). About once a second a member asks
// each other one for its sum at one revision that, by what they said a second ago, all of them have:
//
//	GET /keelson/integrity?rev=120&compact=40     on the peer listener
//	-> {"version":1,"first":1,"last":123,"compactions":[-1,40],"sum":"9c1e..."}
//
// Members of etcd, and of versions of Keelson without this, do not know the path and are left out.
//
// # Judging
//
// Every member judges by itself, from the sums at one point (judge). A sum that a majority of all voting members of the cluster has
// is right, as what a majority has in its log is. A majority of those that happened to answer is not enough: it may be
// the faulty half of a cluster that is being repaired. A member that contradicts the majority twice in a row quarantines
// itself; one that agrees with it twice in a row leaves quarantine. Without a majority all members say that they differ, and nobody
// quarantines.
//
// # Quarantine
//
// A member in quarantine serves no data, and leaves leading to others. It goes on to vote, to append and to apply: its log is not in
// doubt, so the cluster keeps its quorum. A file in the data directory makes quarantine outlast a restart, so that wrong data
// are not served until the first comparison.
//
// # Refetching
//
//	hold           no entry is applied from here on; the log goes on
//	download       GET /keelson/state?index=A from a member that agrees with the majority: its database, with everything up
//	               to index A, where this member was held, and its SHA-256 behind it. The file is checked.
//	apply          up to the index F >= A of that database, to the old state: so changes of the members take their usual way
//	swap           the file is renamed over the old one, and all parts of the state are read from it, as from a
//	               snapshot of the leader (replica.Machine.Swap)
//
// A crash leaves the old state or the new one. Either is continued from the log.
//
// # Concurrency
//
// Run is called once. Everything else may be called from anywhere.
package integrity
