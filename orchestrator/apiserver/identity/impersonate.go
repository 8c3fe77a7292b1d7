package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

const (
	impersonateUser  = "Impersonate-User"
	impersonateUID   = "Impersonate-Uid"
	impersonateGroup = "Impersonate-Group"
	impersonateExtra = "Impersonate-Extra-"

	groupAuthentication = "authentication.k8s.io"
	nodeUserPrefix      = "system:node:"
)

// wanted reads, and takes out, the headers that say whom a request wants to be; nil: nobody else.
func wanted(h http.Header) (*request.User, error) {
	u := &request.User{Name: h.Get(impersonateUser), UID: h.Get(impersonateUID), Groups: slices.Clone(h[impersonateGroup])}
	extra := false
	for name, values := range h {
		key, ok := strings.CutPrefix(name, impersonateExtra)
		if !ok {
			continue
		}
		extra = true
		if len(values) == 0 {
			continue
		}
		key = strings.ToLower(key)
		if decoded, err := url.PathUnescape(key); err == nil {
			key = decoded
		}
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = append(u.Extra[key], values...)
	}
	if u.Name == "" {
		if u.UID != "" || len(u.Groups) > 0 || extra {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %+v without impersonating a user name", *u))
		}
		return nil, nil
	}
	// What comes behind must not see that somebody acts for somebody.
	h.Del(impersonateUser)
	h.Del(impersonateUID)
	h.Del(impersonateGroup)
	maps.DeleteFunc(h, func(name string, _ []string) bool { return strings.HasPrefix(name, impersonateExtra) })
	return u, nil
}

// Impersonator lets users be others. There are two ways to allow it: the verb "impersonate" on the user, each group, the UID
// and each extra; or, narrower, a verb that names a mode, such as "impersonate:user-info", on the same and in addition a verb
// such as "impersonate-on:user-info:list" on what is done. The narrow ways are tried first.
type Impersonator struct{ Authorizer rights.Authorizer }

// mode is a way to be allowed to impersonate.
type mode struct {
	name string // "": the old one
	verb string
	// fits says whether the mode is one for a user whom the requestor wants to be.
	fits func(requestor, wanted *request.User) bool
	// forAny asks for the right to be any node instead of one, and leaves the requestor's extra out.
	forAny bool
}

func modes() []mode {
	return []mode{
		{"associated-node", "impersonate:associated-node", func(requestor, w *request.User) bool {
			node, ok := nodeUser(w.Name)
			_, _, isAccount := accountOf(requestor.Name)
			at := requestor.Extra[nodeNameKey]
			return ok && bare(w) && isAccount && len(at) == 1 && at[0] == node
		}, true},
		{"arbitrary-node", "impersonate:arbitrary-node", func(_, w *request.User) bool {
			_, ok := nodeUser(w.Name)
			return ok && bare(w)
		}, false},
		{"serviceaccount", "impersonate:serviceaccount", func(_, w *request.User) bool {
			_, _, ok := accountOf(w.Name)
			return ok && bare(w)
		}, false},
		{"user-info", "impersonate:user-info", func(_, w *request.User) bool {
			_, node := nodeUser(w.Name)
			_, _, account := accountOf(w.Name)
			return !node && !account
		}, false},
		{"", "impersonate", func(_, _ *request.User) bool { return true }, false},
	}
}

// Become returns whom a requestor acts for, with the verb of a narrow mode that allowed it, or "". Asked is what the request
// wants to do. The error is for the client.
func (i Impersonator) Become(ctx context.Context, asked rights.Attributes, w *request.User) (*request.User, string, error) {
	var first error
	for _, m := range modes() {
		if !m.fits(asked.User, w) {
			continue
		}
		user, err := i.try(ctx, m, asked, w)
		if err == nil {
			constraint := ""
			if m.name != "" {
				constraint = m.verb
			}
			return user, constraint, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, "", first
}

func (i Impersonator) try(ctx context.Context, m mode, asked rights.Attributes, w *request.User) (*request.User, error) {
	if m.forAny {
		asked.User = withoutExtra(asked.User)
	}
	if m.name != "" {
		on := asked
		on.Verb = "impersonate-on:" + m.name + ":" + asked.Verb
		if err := i.check(ctx, on); err != nil {
			return nil, err
		}
	}
	user := *w
	a := rights.Attributes{User: asked.User, Verb: m.verb, IsResource: true}
	if err := i.name(ctx, m, a, &user); err != nil {
		return nil, err
	}
	for _, check := range []func(context.Context, mode, rights.Attributes, *request.User) error{i.uid, i.groups, i.extra} {
		if err := check(ctx, m, a, w); err != nil { // not user: groups that follow from a name need no right
			return nil, err
		}
	}
	switch {
	case user.Name == AnonymousUser:
		return withGroup(&user, Unauthenticated), nil
	case !slices.Contains(user.Groups, Unauthenticated):
		return withGroup(&user, Authenticated), nil
	}
	return &user, nil
}

// place gives users and groups the API group that they have in a mode.
func (m mode) place(a *rights.Attributes, resource string) {
	a.Version, a.Resource = "v1", resource
	if m.name != "" {
		a.Group = groupAuthentication
	}
}

// name checks the user's name, and sets the groups that follow from it.
func (i Impersonator) name(ctx context.Context, m mode, a rights.Attributes, u *request.User) error {
	m.place(&a, "users")
	a.Name = u.Name
	if node, ok := nodeUser(u.Name); ok && m.name != "" {
		a.Resource, a.Name = "nodes", node
		if m.forAny {
			a.Name = "*"
		}
		u.Groups = []string{rights.NodesGroup}
	}
	if namespace, name, ok := accountOf(u.Name); ok {
		a.Resource, a.Namespace, a.Name = "serviceaccounts", namespace, name
		if len(u.Groups) == 0 {
			u.Groups = []string{serviceAccounts, serviceAccounts + ":" + namespace}
		}
	}
	return i.check(ctx, a)
}

func (i Impersonator) uid(ctx context.Context, _ mode, a rights.Attributes, u *request.User) error {
	if u.UID == "" {
		return nil
	}
	a.Group, a.Version, a.Resource, a.Name = groupAuthentication, "v1", "uids", u.UID
	return i.check(ctx, a)
}

// many is from how many values on the right to impersonate all is asked for first.
const many = 4

func (i Impersonator) groups(ctx context.Context, m mode, a rights.Attributes, u *request.User) error {
	if len(u.Groups) == 0 {
		return nil
	}
	m.place(&a, "groups")
	if m.name != "" {
		switch {
		case slices.Contains(u.Groups, ""):
			return rights.Forbidden(a, "impersonating the empty string group is not allowed")
		case slices.Contains(u.Groups, rights.Masters):
			a.Name = rights.Masters
			return rights.Forbidden(a, "impersonating the system:masters group is not allowed")
		}
		if a.Name = "*"; len(u.Groups) >= many && i.check(ctx, a) == nil {
			return nil
		}
	}
	for _, a.Name = range u.Groups {
		if err := i.check(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (i Impersonator) extra(ctx context.Context, m mode, a rights.Attributes, u *request.User) error {
	if len(u.Extra) == 0 {
		return nil
	}
	a.Group, a.Version, a.Resource = groupAuthentication, "v1", "userextras"
	if m.name != "" {
		if err := validExtra(u.Extra); err != nil {
			return rights.Forbidden(a, err.Error())
		}
		values := 0
		for _, v := range u.Extra {
			values += len(v)
		}
		all := a
		if all.Subresource, all.Name = "*", "*"; values >= many && i.check(ctx, all) == nil {
			return nil
		}
	}
	for _, key := range slices.Sorted(maps.Keys(u.Extra)) {
		a.Subresource = key
		for _, a.Name = range u.Extra[key] {
			if err := i.check(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

func (i Impersonator) check(ctx context.Context, a rights.Attributes) error {
	d, reason, err := i.Authorizer.Authorize(ctx, a)
	switch {
	case d == rights.Allow:
		return nil
	case err != nil && reason != "":
		reason = err.Error() + ": " + reason
	case err != nil:
		reason = err.Error()
	}
	return rights.Forbidden(a, reason)
}

func validExtra(extra map[string][]string) error {
	for key, values := range extra {
		if key == "" {
			return errors.New("impersonating the empty string key in extra is not allowed")
		}
		if err := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key).ToAggregate(); err != nil {
			return fmt.Errorf("impersonating an invalid key in extra is not allowed: %w", err)
		}
		switch {
		case key != strings.ToLower(key):
			return fmt.Errorf("impersonating a non-lowercase key in extra is not allowed: %q", key)
		case len(values) == 0:
			return errors.New("impersonating empty values in extra is not allowed")
		case slices.Contains(values, ""):
			return errors.New("impersonating the empty string value in extra is not allowed")
		}
	}
	return nil
}

// bare reports whether nothing but the name of a user is wanted.
func bare(u *request.User) bool { return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0 }

// withoutExtra leaves of a user's extra only which keys there are.
func withoutExtra(u *request.User) *request.User {
	c := *u
	c.Extra = map[string][]string{extraPrefix + "associated-node-keys": slices.Sorted(maps.Keys(u.Extra))}
	return &c
}

// nodeUser returns the node whose kubelet a user name is.
func nodeUser(user string) (string, bool) {
	name, ok := strings.CutPrefix(user, nodeUserPrefix)
	return name, ok && len(validation.NameIsDNSSubdomain(name, false)) == 0
}

// accountOf returns the service account that a user name is.
func accountOf(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	namespace, name, ok = strings.Cut(rest, ":")
	if !ok || strings.Contains(name, ":") ||
		len(validation.ValidateNamespaceName(namespace, false)) > 0 || len(validation.ValidateServiceAccountName(name, false)) > 0 {
		return "", "", false
	}
	return namespace, name, true
}
