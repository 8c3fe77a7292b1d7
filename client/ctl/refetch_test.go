package ctl_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/integritypb"
)

// TestRefetch: the one command that etcdctl does not have for a member's data.
func TestRefetch(t *testing.T) {
	s := serve(t)
	done := &integritypb.RefetchResponse{MemberId: 0xa1, SourceId: 0xb2, Bytes: 4096, Index: 77, Revision: 42}
	held := &integritypb.RefetchResponse{MemberId: 0xa1, SourceId: 0xb2, Quarantined: true}
	for name, c := range map[string]struct {
		args   []string
		answer any
		code   int
		out    string
		errs   string
	}{
		"done":     {nil, done, 0, "Member a1 has the data of member b2 now: 4096 bytes, up to index 77 of the log, at revision 42.\n", ""},
		"still":    {nil, held, 1, "Member a1", "still in quarantine"},
		"refused":  {nil, status.Error(codes.FailedPrecondition, "integrity: this member leads"), 1, "", "this member leads"},
		"etcd":     {nil, status.Error(codes.Unimplemented, "unknown service keelson.integrity.Integrity"), 1, "", "unknown service"},
		"too many": {[]string{"--endpoints=unix:sock,unix:sock2"}, done, 128, "", "exactly one endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(map[string][]any{integritypb.Integrity_Refetch_FullMethodName: {c.answer}})
			var out, errs bytes.Buffer
			code := execute(append([]string{"endpoint", "refetch", "--endpoints=" + endpoint}, c.args...), nil, &out, &errs)
			require.Equal(t, c.code, code, errs.String())
			require.Contains(t, out.String(), c.out)
			require.Contains(t, errs.String(), c.errs)
		})
	}
}
