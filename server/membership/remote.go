package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/peers"
)

const (
	// fetchTimeout ends each question to another member.
	fetchTimeout = 10 * time.Second
	// maxAnswer limits what is read of an answer: far more than the members of any cluster need.
	maxAnswer = 1 << 20
)

// FetchCluster asks for the members of a running cluster. The first of the peer URLs to answer decides.
func FetchCluster(ctx context.Context, client *http.Client, urls []string) (*Cluster, error) {
	var errs []error
	for _, u := range urls {
		id, members, err := fetchMembers(ctx, client, u)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u, err))
			continue
		}
		if len(members) == 0 {
			return nil, fmt.Errorf("failed to get raft cluster member(s) from the given URLs: %s knows of none", u)
		}
		return newFromMembers(id, members), nil
	}
	return nil, fmt.Errorf("could not retrieve cluster information from the given URLs: %w", errors.Join(errs...))
}

func fetchMembers(ctx context.Context, client *http.Client, base string) (uint64, []*Member, error) {
	resp, err := ask(ctx, client, http.MethodGet, base+membersPath)
	if err != nil {
		return 0, nil, err
	}
	var members []*Member
	if err := json.Unmarshal(resp.body, &members); err != nil {
		return 0, nil, err
	}
	for _, m := range members {
		if m == nil {
			return 0, nil, errors.New("the list of members has a hole")
		}
	}
	id, err := ParseID(resp.header.Get(peers.ClusterIDHeader))
	if err != nil {
		return 0, nil, fmt.Errorf("cluster ID: %w", err)
	}
	return id, members, nil
}

// IsBootstrapped says whether a cluster at the given peer URLs knows a member as one that has run before. No answer in
// time counts as no.
func IsBootstrapped(ctx context.Context, client *http.Client, urls []string, id uint64, timeout time.Duration) bool {
	limited := *client
	limited.Timeout = timeout
	running, err := FetchCluster(ctx, &limited, urls)
	if err != nil {
		return false
	}
	m := running.Member(id)
	return m != nil && len(m.ClientURLs) > 0
}

// CheckCompatible says whether this version may join a running cluster as the member self: no other member may report a
// cluster version outside of what this version works with, and at least one must report one at all.
func CheckCompatible(ctx context.Context, client *http.Client, running *Cluster, self uint64) error {
	var others []*Member
	for _, m := range running.Members() {
		if m.ID != self {
			others = append(others, m)
		}
	}
	low, high := semver.New(version.MinClusterVersion), major(ownVersion())
	if downgradeEnabled(ctx, client, others) {
		high.Minor++
		low = high
	}
	known := false
	for id, vs := range Versions(ctx, client, others) {
		if vs == nil {
			continue
		}
		v, err := semver.NewVersion(vs.Cluster)
		if err != nil {
			continue // not decided yet
		}
		if v.LessThan(*low) || high.LessThan(*v) {
			return fmt.Errorf("member %x has cluster version %s, not in the range from %s to %s", id, v, low, high)
		}
		known = true
	}
	if !known {
		return errors.New("no member of it reports a cluster version")
	}
	return nil
}

// downgradeEnabled asks one member after the other; the first answer is that of all.
func downgradeEnabled(ctx context.Context, client *http.Client, members []*Member) bool {
	for _, m := range members {
		for _, u := range m.PeerURLs {
			resp, err := ask(ctx, client, http.MethodGet, u+downgradePath)
			if err != nil {
				continue
			}
			if enabled, err := strconv.ParseBool(string(resp.body)); err == nil {
				return enabled
			}
		}
	}
	return false
}

// Versions asks members for their versions, all at the same time. One that does not answer has a nil entry.
func Versions(ctx context.Context, client *http.Client, members []*Member) map[uint64]*version.Versions {
	answers := make([]*version.Versions, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { answers[i] = fetchVersion(ctx, client, m) })
	}
	wg.Wait()
	out := make(map[uint64]*version.Versions, len(members))
	for i, m := range members {
		out[m.ID] = answers[i]
	}
	return out
}

func fetchVersion(ctx context.Context, client *http.Client, m *Member) *version.Versions {
	for _, u := range m.PeerURLs {
		resp, err := ask(ctx, client, http.MethodGet, u+versionPath)
		if err != nil {
			continue
		}
		var vs version.Versions
		if json.Unmarshal(resp.body, &vs) == nil {
			return &vs
		}
	}
	return nil
}

// AllVersions returns the versions of all members: this one's own, and what Versions says about the others.
func (c *Cluster) AllVersions(ctx context.Context, client *http.Client) map[uint64]*version.Versions {
	self := c.local()
	var others []*Member
	own := false
	for _, m := range c.Members() {
		if m.ID == self {
			own = true
		} else {
			others = append(others, m)
		}
	}
	out := Versions(ctx, client, others)
	if own {
		vs := versionsOf(c, nil)
		out[self] = &vs
	}
	return out
}

// PromoteRemote asks the leader, at one of its peer URLs, to promote a learner. ErrIDNotFound, ErrMemberNotLearner and
// errdefs.ErrLearnerNotReady are the leader's answers; other errors leave open what happened.
func PromoteRemote(ctx context.Context, client *http.Client, peerURL string, id uint64) ([]*Member, error) {
	resp, err := ask(ctx, client, http.MethodPost, peerURL+promotePrefix+strconv.FormatUint(id, 10))
	if err != nil {
		return nil, err
	}
	body := string(resp.body)
	switch resp.status {
	case http.StatusOK:
		var members []*Member
		if err := json.Unmarshal(resp.body, &members); err != nil {
			return nil, fmt.Errorf("member promote: %w", err)
		}
		return members, nil
	case http.StatusRequestTimeout:
		return nil, errdefs.ErrTimeout
	case http.StatusNotFound:
		return nil, ErrIDNotFound
	case http.StatusPreconditionFailed:
		if strings.Contains(body, errdefs.ErrLearnerNotReady.Error()) {
			return nil, errdefs.ErrLearnerNotReady
		}
		if strings.Contains(body, ErrMemberNotLearner.Error()) {
			return nil, ErrMemberNotLearner
		}
	}
	return nil, fmt.Errorf("member promote: unknown error(%s)", body)
}

// tokenHeader passes the token of the client on for whom the leader is asked.
const tokenHeader = "Authorization"

// token is that of the client whose call ctx belongs to, or "".
func token(ctx context.Context) string {
	for _, key := range []string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if ts := metadata.ValueFromIncomingContext(ctx, key); len(ts) > 0 {
			return ts[0]
		}
	}
	return ""
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask sends a request without body. Redirections are not followed: members answer themselves.
func ask(ctx context.Context, client *http.Client, method, url string) (*answer, error) {
	cl := peers.Direct(client)
	if cl.Timeout == 0 && method == http.MethodGet {
		cl.Timeout = fetchTimeout
	}
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	if t := token(ctx); method == http.MethodPost && t != "" {
		req.Header.Set(tokenHeader, t)
	}
	resp, err := cl.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}
