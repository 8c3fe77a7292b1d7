// Package suite pins etcd's own black-box tests, which tools/etcd-e2e runs against Keelson. It has no code of its own: the tests are
// compiled from this module, which `go get -t go.etcd.io/etcd/tests/v3/common go.etcd.io/etcd/tests/v3/e2e` keeps up.
package suite
