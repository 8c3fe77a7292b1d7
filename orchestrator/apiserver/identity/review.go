package identity

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Review answers a TokenReview. Own are the API server's audiences: those of tokens that have none.
func Review(ctx context.Context, tokens TokenAuthenticator, own []string, spec *authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
	audiences := spec.Audiences
	if len(audiences) == 0 {
		audiences = own
	}
	id, err := tokens.Token(ctx, spec.Token, audiences)
	if err != nil {
		return authenticationv1.TokenReviewStatus{Error: err.Error()}
	}
	if id == nil {
		return authenticationv1.TokenReviewStatus{Error: errInvalidToken.Error()}
	}
	shared := id.Audiences
	if shared == nil {
		shared = intersect(own, audiences)
	}
	if len(shared) == 0 && len(audiences) > 0 { // it is for the API server, not for who asks
		return authenticationv1.TokenReviewStatus{Error: errInvalidToken.Error()}
	}
	return authenticationv1.TokenReviewStatus{Authenticated: true, User: UserInfo(authenticated(id.User)), Audiences: shared}
}

// UserInfo is a user as the API tells of him.
func UserInfo(u *request.User) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}
