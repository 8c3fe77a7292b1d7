package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestArguments(t *testing.T) {
	for _, c := range []struct{ argv, want []string }{
		{[]string{"/bin/keelson", "up"}, []string{"up"}},
		{[]string{"/bin/etcdctl", "get", "a"}, []string{"ctl", "get", "a"}},
		{[]string{"etcd"}, []string{"server"}},
		{[]string{"etcd", "--name", "gateway"}, []string{"server", "--name", "gateway"}},
		{[]string{"etcd", "gateway", "start"}, []string{"gateway", "start"}},
		{[]string{"etcd", "grpc-proxy", "start", "--debug"}, []string{"grpc-proxy", "start", "--debug"}},
		{[]string{"etcdctl", "gateway"}, []string{"ctl", "gateway"}},
	} {
		require.Equal(t, c.want, arguments(c.argv))
	}
}
