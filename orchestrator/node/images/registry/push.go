package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// pushJobs is how many layers are sent at a time.
const pushJobs = 4

// Push sends an image to a registry under a tag. Layers that are there already are not sent.
func (c *Client) Push(ctx context.Context, host, repo, tag string, auth *Auth, img v1.Image) error {
	e := c.endpoint(host, repo, auth, transport.PushScope)
	to, err := e.name()
	if err != nil {
		return err
	}
	a, err := e.auth.authenticator(host)
	if err != nil {
		return err
	}
	e.known = a != authn.Anonymous
	g, err := c.transport(host)
	if err != nil {
		return err
	}
	err = remote.Write(to.Tag(tag), img, remote.WithContext(ctx), remote.WithAuth(a), remote.WithTransport(g), remote.WithJobs(pushJobs))
	if err != nil {
		err = explain(host, e.known, err)
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: it takes no such repository", err)
		}
	}
	return err
}
