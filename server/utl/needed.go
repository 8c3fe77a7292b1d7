package utl

import (
	"fmt"
	"strings"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/versionpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

type entry = *raftpb.Entry

// needed is the lowest version of etcd that understands all entries of a log, as the definitions of the messages in them say;
// nil if nothing says anything.
func needed(entries []entry) (*semver.Version, error) {
	var n need
	for _, e := range entries {
		switch e.GetType() {
		case raftpb.EntryNormal:
			r := &pb.InternalRaftRequest{}
			if err := proto.Unmarshal(e.Data, r); err != nil {
				return nil, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
			}
			n.note(r.GetDowngradeVersionTest().GetVer())
			n.message(r.ProtoReflect())
		case raftpb.EntryConfChangeV2:
			n.note("3.4.0")
		default:
			n.note("3.0.0")
		}
		if n.err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.GetIndex(), n.err)
		}
	}
	return n.version, nil
}

// need is the highest version seen.
type need struct {
	version *semver.Version
	err     error
}

func (n *need) note(s string) {
	if s == "" {
		return
	}
	if strings.Count(s, ".") == 1 {
		s += ".0"
	}
	v, err := semver.NewVersion(s)
	switch {
	case err != nil:
		n.err = err
	case n.version == nil || n.version.LessThan(*v):
		n.version = v
	}
}

// option notes the version that a definition names.
func (n *need) option(d protoreflect.Descriptor, ext protoreflect.ExtensionType) {
	if o := d.Options(); proto.HasExtension(o, ext) {
		n.note(proto.GetExtension(o, ext).(string))
	}
}

func (n *need) message(m protoreflect.Message) {
	n.option(m.Descriptor(), versionpb.E_EtcdVersionMsg)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		n.option(fd, versionpb.E_EtcdVersionField)
		switch {
		case fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				n.value(fd, v.List().Get(i))
			}
		default:
			n.value(fd, v)
		}
		return true
	})
}

func (n *need) value(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case fd.Message() != nil:
		n.message(v.Message())
	case fd.Enum() != nil:
		n.option(fd.Enum(), versionpb.E_EtcdVersionEnum)
		if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
			n.option(ev, versionpb.E_EtcdVersionEnumValue)
		}
	}
}
