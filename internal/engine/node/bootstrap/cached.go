package bootstrap

import (
	"context"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// acrTokenUser is the user name with which a registry takes a refresh token for a password.
const acrTokenUser = "00000000-0000-0000-0000-000000000000"

// cachedGrace is how long images that are still on their way are waited for when the node is provisioned.
const cachedGrace = 20 * time.Second

// pullCachedImages pulls what every node runs as soon as it is one. AKS's node image brings these along; this one
// pulls them, through the registry as all else, while the node waits for its API server. An image that does
// not come is no fault yet: the kubelet will try, and say so.
func (r *runner) pullCachedImages(ctx context.Context, auth authn.Authenticator) error {
	config, err := auth.Authorization()
	if err != nil {
		return err
	}
	for _, image := range r.config.CachedImages {
		if err := r.env.Runtime.Pull(ctx, image, acrTokenUser, config.IdentityToken); err != nil {
			return err
		}
	}
	return nil
}

// awaitCachedImages gives images on their way a last while: the kubelet, which runs by now, would have to begin again with them.
func (r *runner) awaitCachedImages(ctx context.Context, t *task) {
	grace := r.scaled(cachedGrace)
	select {
	case <-t.done:
		if t.err != nil {
			r.logf("%s: the kubelet will have to pull them: %v", t.name, t.err)
		}
	case <-time.After(grace):
		r.logf("%s: not done %s after the kubelet was started, and left to it", t.name, grace)
	case <-ctx.Done():
	}
}
