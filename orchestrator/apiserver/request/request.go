// Package request says what an HTTP request asks of the API server, and who asks.
//
// # Concurrency
//
// Values are made before a request is served and not changed afterwards.
package request

import (
	"context"
	"net/http"
	"strings"
)

// Info is what a request asks for.
type Info struct {
	// Verb is an API verb for resources ("get", "list", "watch", "create", "update", "patch", "delete",
	// "deletecollection"), otherwise the HTTP method in lower case.
	Verb        string
	Path        string
	IsResource  bool
	Prefix      string // "api" or "apis"
	Group       string
	Version     string
	Namespace   string
	Resource    string
	Subresource string
	Name        string
	Parts       []string // of the path, from the resource on
}

// User is who asks.
type User struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// Parse reads a request's method and URL as Kubernetes does:
//
//	/api/<version>/[namespaces/<namespace>/]<resource>[/<name>[/<subresource>...]]
//	/apis/<group>/<version>/...
//
// A list or watch of one object that is named by the field selector metadata.name has that Name.
func Parse(r *http.Request) *Info {
	i := &Info{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	parts := split(r.URL.Path)
	if len(parts) < 3 {
		return i
	}
	switch i.Prefix = parts[0]; {
	case i.Prefix == "api":
		i.Version, parts = parts[1], parts[2:]
	case i.Prefix == "apis" && len(parts) >= 4:
		i.Group, i.Version, parts = parts[1], parts[2], parts[3:]
	default:
		i.Prefix = ""
		return i
	}
	i.IsResource = true
	i.Verb = verbs[r.Method]
	deprecatedWatch := parts[0] == "watch" && len(parts) > 1
	if deprecatedWatch {
		parts = parts[1:]
	}
	i.place(parts)
	i.collectionVerb(r, deprecatedWatch)
	return i
}

var verbs = map[string]string{
	http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "update",
	http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// namespaceParts are subresources of namespaces; every other word behind a namespace's name is a resource in it.
var namespaceParts = map[string]bool{"status": true, "finalize": true}

// place finds namespace, resource, name and subresource.
func (i *Info) place(parts []string) {
	if parts[0] == "namespaces" {
		if len(parts) > 1 {
			i.Namespace = parts[1]
			if len(parts) > 2 && !namespaceParts[parts[2]] {
				parts = parts[2:]
			}
		}
	}
	i.Parts = parts
	i.Resource = parts[0]
	if len(parts) > 1 {
		i.Name = parts[1]
	}
	if len(parts) > 2 {
		i.Subresource = parts[2]
	}
}

// collectionVerb tells requests for a collection from those for an object.
func (i *Info) collectionVerb(r *http.Request, watch bool) {
	if watch {
		i.Verb = "watch"
		return
	}
	if i.Name != "" {
		return
	}
	switch i.Verb {
	case "get":
		i.Verb = "list"
		if w := r.URL.Query().Get("watch"); w != "" && w != "0" && w != "false" {
			i.Verb = "watch"
		}
	case "delete":
		i.Verb = "deletecollection"
	}
	if i.Verb == "create" {
		return
	}
	for term := range strings.SplitSeq(r.URL.Query().Get("fieldSelector"), ",") {
		if name, ok := strings.CutPrefix(term, "metadata.name="); ok {
			i.Name = strings.TrimPrefix(name, "=")
		}
	}
}

func split(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

type infoKey struct{}

type userKey struct{}

// WithInfo returns a context that carries an Info.
func WithInfo(ctx context.Context, i *Info) context.Context {
	return context.WithValue(ctx, infoKey{}, i)
}

// InfoFrom returns the Info of a context, nil if there is none.
func InfoFrom(ctx context.Context) *Info {
	i, _ := ctx.Value(infoKey{}).(*Info)
	return i
}

// WithUser returns a context that carries a User.
func WithUser(ctx context.Context, u *User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserFrom returns the User of a context, nil if there is none.
func UserFrom(ctx context.Context) *User {
	u, _ := ctx.Value(userKey{}).(*User)
	return u
}
