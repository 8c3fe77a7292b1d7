// Package peers is for small questions between the members of a cluster, over their peer URLs.
//
// # Concurrency
//
// Everything may be used from any number of goroutines.
package peers

import (
	"context"
	"errors"
	"net/http"
	"strconv"
)

// ClusterIDHeader names, in hexadecimal, the cluster of who asks or answers.
const ClusterIDHeader = "X-Etcd-Cluster-ID"

// Direct is a client that follows no redirections: members answer themselves.
func Direct(c *http.Client) *http.Client {
	direct := *c
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &direct
}

// Asker asks members of this cluster, and lets only those ask.
type Asker struct {
	Client  *http.Client
	Cluster func() uint64 // id
}

func (a Asker) cluster() string { return strconv.FormatUint(a.Cluster(), 16) }

// Get asks a member at its peer URLs, one after another, until one answers.
func (a Asker) Get(ctx context.Context, urls []string, path string) (resp *http.Response, err error) {
	client := Direct(a.Client)
	err = errors.New("the member has no peer URL")
	for _, u := range urls {
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, u+path, nil); err != nil {
			return nil, err
		}
		req.Header.Set(ClusterIDHeader, a.cluster())
		if resp, err = client.Do(req); err == nil {
			return resp, nil
		}
	}
	return nil, err
}

// Admit says whether a request is a question of a member of this cluster. If not, it is answered.
func (a Asker) Admit(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return false
	case r.Header.Get(ClusterIDHeader) != a.cluster():
		http.Error(w, "cluster ID mismatch", http.StatusPreconditionFailed)
		return false
	}
	return true
}
