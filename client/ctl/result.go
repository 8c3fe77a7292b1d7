package ctl

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/client"
)

// Results that are more than one message of the API. The others are the messages themselves.
type (
	// valuesOnly is a read of which the simple format shows values only.
	valuesOnly struct{ *pb.RangeResponse }

	// revoked is a lease's end.
	revoked struct {
		*pb.LeaseRevokeResponse
		id client.LeaseID
	}

	// timeToLive is a lease's age, with its keys if they were asked for.
	timeToLive struct {
		*pb.LeaseTimeToLiveResponse
		keys bool
	}

	// memberAdded is a new member; name and urls are what the operator calls it.
	memberAdded struct {
		*pb.MemberAddResponse
		name, urls string
	}

	// memberChange is what happened to a member: "removed from", "updated in", "promoted in".
	memberChange struct {
		proto.Message
		header  *pb.ResponseHeader
		members []*pb.Member
		id      uint64
		what    string
	}

	// said is a response of which the simple format says a fixed text.
	said struct {
		proto.Message
		text string
	}

	// oneUser and oneRole are what a user or a role has.
	oneUser struct {
		*pb.AuthUserGetResponse
		name string
	}
	oneRole struct {
		*pb.AuthRoleGetResponse
		name string
	}

	// leaderMoved is a change of the leader.
	leaderMoved struct {
		*pb.MoveLeaderResponse
		from, to uint64
	}

	// downgrade is a step of a downgrade: "validate", "enable", "cancel".
	downgrade struct {
		*pb.DowngradeResponse
		step string
	}

	// health is the state of one endpoint.
	health struct {
		Ep     string `json:"endpoint"`
		Health bool   `json:"health"`
		Took   string `json:"took"`
		Error  string `json:"error,omitempty"`
	}

	// status is what one endpoint says about itself.
	status struct {
		Ep   string             `json:"Endpoint"`
		Resp *pb.StatusResponse `json:"Status"`
	}

	// hashKV is the checksum of one endpoint's keys.
	hashKV struct {
		Ep   string             `json:"Endpoint"`
		Resp *pb.HashKVResponse `json:"HashKV"`
	}

	// watchEnd is a watch that the server cancelled.
	watchEnd struct {
		header     *pb.ResponseHeader
		compactRev int64
	}
)

// message returns what the API said, if the result is one message.
func message(result any) (proto.Message, bool) {
	switch r := result.(type) {
	case valuesOnly:
		return r.RangeResponse, true
	case revoked:
		return r.LeaseRevokeResponse, true
	case timeToLive:
		return r.LeaseTimeToLiveResponse, true
	case memberAdded:
		return r.MemberAddResponse, true
	case memberChange:
		return r.Message, true
	case said:
		return r.Message, true
	case oneUser:
		return r.AuthUserGetResponse, true
	case oneRole:
		return r.AuthRoleGetResponse, true
	case leaderMoved:
		return r.MoveLeaderResponse, true
	case downgrade:
		return r.DowngradeResponse, true
	case proto.Message:
		return r, true
	}
	return nil, false
}
