package leasing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/leasepb"
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/errdefs"
)

// Paths on the peer port.
const (
	RenewPath      = "/leases"
	RenewAllPath   = "/leases/batch"
	TimeToLivePath = "/leases/internal"
)

// Bounds on bodies, in bytes. A response may carry all keys of a lease.
const (
	maxRequest  = 64 << 10
	maxResponse = 100 << 20
)

// Handler serves these paths to other members.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(RenewPath, func(w http.ResponseWriter, r *http.Request) { serve(w, r, s.serveRenew) })
	mux.HandleFunc(RenewAllPath, func(w http.ResponseWriter, r *http.Request) { serve(w, r, s.serveRenewAll) })
	mux.HandleFunc(TimeToLivePath, func(w http.ResponseWriter, r *http.Request) { serve(w, r, s.serveTimeToLive) })
	return mux
}

func serve(w http.ResponseWriter, r *http.Request, answer func(ctx context.Context, body []byte) ([]byte, error)) {
	if r.Method != http.MethodPost {
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "request body too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "error reading body", http.StatusBadRequest)
		return
	}
	out, err := answer(r.Context(), body)
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/protobuf")
	_, _ = w.Write(out)
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, lease.ErrLeaseNotFound):
		return http.StatusNotFound
	case errors.Is(err, errdefs.ErrTimeoutWaitAppliedIndex):
		return http.StatusRequestTimeout
	case errors.Is(err, errdefs.ErrLeaderChanged):
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

func (s *Service) serveRenew(ctx context.Context, body []byte) ([]byte, error) {
	req := &pb.LeaseKeepAliveRequest{}
	if err := proto.Unmarshal(body, req); err != nil {
		return nil, fmt.Errorf("error unmarshalling request: %w", err)
	}
	ttl, err := s.renewHere(ctx, lease.ID(req.ID))
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&pb.LeaseKeepAliveResponse{ID: req.ID, TTL: ttl})
}

// serveRenewAll answers for as many leases as were asked for, in their order.
func (s *Service) serveRenewAll(ctx context.Context, body []byte) (out []byte, err error) {
	var ids []lease.ID
	req := &pb.LeaseKeepAliveRequest{}
	for r := bytes.NewReader(body); r.Len() > 0; {
		if err := protodelim.UnmarshalFrom(r, req); err != nil {
			return nil, fmt.Errorf("error unmarshalling request: %w", err)
		}
		ids = append(ids, lease.ID(req.ID))
	}
	ttls, err := s.renewAllHere(ctx, ids)
	if err != nil {
		return nil, err
	}
	resp := &pb.LeaseKeepAliveResponse{}
	var w bytes.Buffer
	for i, id := range ids {
		resp.ID, resp.TTL = int64(id), ttls[i]
		if _, err := protodelim.MarshalTo(&w, resp); err != nil {
			return nil, err
		}
	}
	return w.Bytes(), nil
}

func (s *Service) serveTimeToLive(ctx context.Context, body []byte) ([]byte, error) {
	outer, req := &leasepb.LeaseInternalRequest{}, &pb.LeaseTimeToLiveRequest{}
	if err := proto.Unmarshal(body, outer); err != nil {
		return nil, fmt.Errorf("error unmarshalling request: %w", err)
	}
	if err := proto.Unmarshal(outer.LeaseTimeToLiveRequest, req); err != nil {
		return nil, fmt.Errorf("error unmarshalling request: %w", err)
	}
	if !s.cfg.IsLeader() {
		return nil, lease.ErrNotPrimary
	}
	resp, err := s.describe(ctx, req)
	if err != nil {
		return nil, err
	}
	inner, err := proto.Marshal(resp)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&leasepb.LeaseInternalResponse{LeaseTimeToLiveResponse: inner})
}

// Remote asks another member.
type Remote struct {
	Client *http.Client
}

// Renew renews a lease at the member whose peer URL is given; see Service.Renew.
func (r *Remote) Renew(ctx context.Context, url string, id lease.ID) (int64, error) {
	resp := &pb.LeaseKeepAliveResponse{}
	if err := r.ask(ctx, url+RenewPath, &pb.LeaseKeepAliveRequest{ID: int64(id)}, resp); err != nil {
		return 0, err
	}
	if resp.ID != int64(id) {
		return 0, fmt.Errorf("lease: asked to renew %x, got an answer for %x", id, resp.ID)
	}
	return resp.TTL, nil
}

// RenewAll renews leases at the member whose peer URL is given; see Service.RenewAll. If the member cannot renew several at
// once, all are Pending.
func (r *Remote) RenewAll(ctx context.Context, url string, ids []lease.ID) ([]int64, error) {
	ttls := make([]int64, len(ids))
	req := &pb.LeaseKeepAliveRequest{}
	var body bytes.Buffer
	for i, id := range ids {
		req.ID, ttls[i] = int64(id), Pending
		if _, err := protodelim.MarshalTo(&body, req); err != nil {
			return nil, err
		}
	}
	data, err := r.post(ctx, url+RenewAllPath, body.Bytes())
	if errors.Is(err, lease.ErrLeaseNotFound) { // no such path
		return ttls, nil
	}
	if err != nil {
		return nil, err
	}
	resp, answers := &pb.LeaseKeepAliveResponse{}, bytes.NewReader(data)
	for i, id := range ids {
		if err := protodelim.UnmarshalFrom(answers, resp); err != nil {
			return nil, fmt.Errorf("lease: answer of %s: %w", url, err)
		}
		if resp.ID != int64(id) {
			return nil, fmt.Errorf("lease: asked to renew %x, got an answer for %x", id, resp.ID)
		}
		ttls[i] = resp.TTL
	}
	return ttls, nil
}

// TimeToLive describes a lease at the member whose peer URL is given; see Service.TimeToLive.
func (r *Remote) TimeToLive(ctx context.Context, url string, req *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	inner, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	outer := &leasepb.LeaseInternalResponse{}
	if err := r.ask(ctx, url+TimeToLivePath, &leasepb.LeaseInternalRequest{LeaseTimeToLiveRequest: inner}, outer); err != nil {
		return nil, err
	}
	resp := &pb.LeaseTimeToLiveResponse{}
	if err := proto.Unmarshal(outer.LeaseTimeToLiveResponse, resp); err != nil {
		return nil, fmt.Errorf("lease: answer of %s: %w", url, err)
	}
	if resp.ID != req.ID {
		return nil, fmt.Errorf("lease: asked for %x, got an answer for %x", req.ID, resp.ID)
	}
	return resp, nil
}

func (r *Remote) ask(ctx context.Context, url string, req, resp proto.Message) error {
	body, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	data, err := r.post(ctx, url, body)
	if err != nil {
		return err
	}
	return proto.Unmarshal(data, resp)
}

func (r *Remote) post(ctx context.Context, url string, body []byte) ([]byte, error) {
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	hr.Header.Set("Content-Type", "application/protobuf")
	answer, err := r.Client.Do(hr)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxResponse+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxResponse:
		return nil, fmt.Errorf("lease: answer of %s exceeds %d bytes", url, maxResponse)
	case answer.StatusCode == http.StatusNotFound:
		return nil, lease.ErrLeaseNotFound
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("lease: %s answered %s: %s", url, answer.Status, bytes.TrimSpace(data))
	}
	return data, nil
}
