// Package e2e tests whole members as programs: Keelson's binary and the real etcd's, alone, together in one cluster, and
// one after the other on the same data directory. It has no code besides its tests.
//
// The model. A load (load_test.go) writes keys, each of them once, and remembers what was acknowledged and at which
// revision; readers check all along that revisions never fall. A test disturbs the members meanwhile: kill -9, SIGSTOP,
// partitions, replacement, membership changes. Afterwards every acknowledged write is there with its revision, and the
// members' hashKV is the same. The histories of the linearizability tests are judged by porcupine.
//
// Every suite has a short form, which is part of `make test`, and a long one whose name contains Stress, which runs if
// KEELSON_STRESS is set (`make stress`). KEELSON_E2E_KEEP names a directory that receives the members' logs and data of
// failed tests.
//
// # Concurrency
//
// A cluster is used by its test's goroutine; a load has goroutines of its own, and its methods may be called from any.
package e2e
