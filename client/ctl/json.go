package ctl

import (
	"encoding/json"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/client"
)

// jsonFormat writes one JSON document a line. Most are the API's messages as encoding/json sees the generated structs
// (keys and values in base64, enumerations as numbers); lease and watch responses and transactions have shapes of
// their own, which scripts written for etcdctl rely on.
type jsonFormat struct {
	out io.Writer
	hex bool // of members' IDs only
}

// Print is Printer's.
func (p jsonFormat) Print(result any) error {
	var doc any
	switch r := result.(type) {
	case []health, []status, []hashKV:
		doc = r
	case *pb.TxnResponse:
		doc = jsonTxn(r)
	case *client.WatchResponse:
		doc = watchJSON{Header: r.Header, Events: r.Events, Created: r.Created}
	case watchEnd:
		doc = watchJSON{Header: r.header, CompactRevision: r.compactRev, Canceled: true}
	default:
		doc = p.lease(result)
		if doc == nil && p.hex {
			doc = hexMembership(result)
		}
		if doc == nil {
			doc, _ = message(result)
		}
		if doc == nil {
			return unsupported("json")
		}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.out, "%s\n", b)
	return err
}

// Lease responses: the header's fields are the document's own.
type (
	grantJSON struct {
		*pb.ResponseHeader
		ID    int64
		TTL   int64
		Error string
	}
	keepAliveJSON struct {
		*pb.ResponseHeader
		ID  int64
		TTL int64
	}
	timeToLiveJSON struct {
		*pb.ResponseHeader
		ID         int64    `json:"id"`
		TTL        int64    `json:"ttl"`
		GrantedTTL int64    `json:"granted-ttl"`
		Keys       [][]byte `json:"keys"`
	}
	leaseJSON struct {
		ID int64 `json:"id"`
	}
	leasesJSON struct {
		*pb.ResponseHeader
		Leases []leaseJSON `json:"leases"`
	}
)

func (p jsonFormat) lease(result any) any {
	switch r := result.(type) {
	case *pb.LeaseGrantResponse:
		return grantJSON{r.Header, r.ID, r.TTL, r.Error}
	case *pb.LeaseKeepAliveResponse:
		return keepAliveJSON{r.Header, r.ID, r.TTL}
	case timeToLive:
		return timeToLiveJSON{r.Header, r.ID, r.TTL, r.GrantedTTL, r.Keys}
	case *pb.LeaseLeasesResponse:
		list := make([]leaseJSON, len(r.Leases))
		for i, l := range r.Leases {
			list[i].ID = l.ID
		}
		return leasesJSON{r.Header, list}
	}
	return nil
}

// watchJSON is a watch response.
type watchJSON struct {
	Header          *pb.ResponseHeader
	Events          []*client.Event
	CompactRevision int64
	Canceled        bool
	Created         bool
	CancelReason    string
}

// A transaction's response: the operations' kinds are field names.
type (
	txnJSON struct {
		Header    *pb.ResponseHeader `json:"header,omitempty"`
		Succeeded bool               `json:"succeeded,omitempty"`
		Responses []opJSON           `json:"responses,omitempty"`
	}
	opJSON struct {
		Response opKindJSON `json:"Response"`
	}
	opKindJSON struct {
		Range  *pb.RangeResponse       `json:"response_range,omitempty"`
		Put    *pb.PutResponse         `json:"response_put,omitempty"`
		Delete *pb.DeleteRangeResponse `json:"response_delete_range,omitempty"`
		Txn    *txnJSON                `json:"response_txn,omitempty"`
	}
)

func jsonTxn(r *pb.TxnResponse) *txnJSON {
	doc := &txnJSON{Header: r.Header, Succeeded: r.Succeeded}
	for _, op := range r.Responses {
		k := opKindJSON{Range: op.GetResponseRange(), Put: op.GetResponsePut(), Delete: op.GetResponseDeleteRange()}
		if t := op.GetResponseTxn(); t != nil {
			k.Txn = jsonTxn(t)
		}
		doc.Responses = append(doc.Responses, opJSON{k})
	}
	return doc
}

// Membership responses with IDs in hexadecimal.
type (
	hexHeader struct {
		ClusterID string `json:"cluster_id"`
		MemberID  string `json:"member_id"`
		Revision  int64  `json:"revision,omitempty"`
		RaftTerm  uint64 `json:"raft_term,omitempty"`
	}
	hexMember struct {
		ID         string   `json:"ID"`
		Name       string   `json:"name,omitempty"`
		PeerURLs   []string `json:"peerURLs,omitempty"`
		ClientURLs []string `json:"clientURLs,omitempty"`
		IsLearner  bool     `json:"isLearner,omitempty"`
	}
	hexMembersJSON struct {
		Header  *hexHeader   `json:"header"`
		Members []*hexMember `json:"members"`
	}
	hexAddedJSON struct {
		Header  *hexHeader   `json:"header"`
		Member  *hexMember   `json:"member"`
		Members []*hexMember `json:"members"`
	}
)

func hexMembership(result any) any {
	switch r := result.(type) {
	case memberAdded:
		return hexAddedJSON{toHexHeader(r.Header), toHexMember(r.Member), toHexMembers(r.Members)}
	case memberChange:
		return hexMembersJSON{toHexHeader(r.header), toHexMembers(r.members)}
	case *pb.MemberListResponse:
		return hexMembersJSON{toHexHeader(r.Header), toHexMembers(r.Members)}
	}
	return nil
}

func toHexHeader(h *pb.ResponseHeader) *hexHeader {
	if h == nil {
		return nil
	}
	return &hexHeader{hexID(h.ClusterId), hexID(h.MemberId), h.Revision, h.RaftTerm}
}

func toHexMember(m *pb.Member) *hexMember {
	if m == nil {
		return nil
	}
	return &hexMember{hexID(m.ID), m.Name, m.PeerURLs, m.ClientURLs, m.IsLearner}
}

func toHexMembers(ms []*pb.Member) []*hexMember {
	list := make([]*hexMember, len(ms))
	for i, m := range ms {
		list[i] = toHexMember(m)
	}
	return list
}
