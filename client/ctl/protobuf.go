package ctl

import (
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/client"
)

// protobuf writes the API's messages in their wire format. As in etcdctl, of most lease responses that is the header
// alone, and a revocation has no form.
type protobuf struct{ out io.Writer }

// Print is Printer's.
func (p protobuf) Print(result any) error {
	m, err := p.message(result)
	if err != nil {
		return err
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = p.out.Write(b)
	return err
}

func (p protobuf) message(result any) (proto.Message, error) {
	switch r := result.(type) {
	case *pb.LeaseGrantResponse:
		return r.Header, nil
	case *pb.LeaseKeepAliveResponse:
		return r.Header, nil
	case timeToLive:
		return r.Header, nil
	case *pb.LeaseLeasesResponse:
		return r.Header, nil
	case revoked:
		return nil, exit(ExitBadFeature, errors.New("marshal unsupported for type LeaseRevokeResponse"))
	case *client.WatchResponse:
		return &pb.WatchResponse{Header: r.Header, Events: r.Events, Created: r.Created}, nil
	case watchEnd:
		return &pb.WatchResponse{Header: r.header, CompactRevision: r.compactRev, Canceled: true}, nil
	}
	if m, ok := message(result); ok {
		return m, nil
	}
	return nil, unsupported("protobuf")
}
