package workers

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// login is what a pull secret says of one registry, or of a part of it.
type login struct {
	registry string // host[:port][/path], as normalRegistry leaves it
	auth     *runtimeapi.AuthConfig
}

// dockerAuth is an entry of a docker configuration.
type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// parseLogins reads a pull secret.
func parseLogins(s *corev1.Secret) ([]login, error) {
	var entries map[string]dockerAuth
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if err := json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file); err != nil {
			return nil, fmt.Errorf("secret %s/%s: %s is not a docker configuration: %w", s.Namespace, s.Name, corev1.DockerConfigJsonKey, err)
		}
		entries = file.Auths
	case corev1.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[corev1.DockerConfigKey], &entries); err != nil {
			return nil, fmt.Errorf("secret %s/%s: %s is not a docker configuration: %w", s.Namespace, s.Name, corev1.DockerConfigKey, err)
		}
	default:
		return nil, fmt.Errorf("secret %s/%s of type %q holds no credentials of registries", s.Namespace, s.Name, s.Type)
	}
	var logins []login
	for registry, e := range entries {
		if e.Auth != "" && e.Username == "" {
			raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Auth))
			if err != nil {
				if raw, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(e.Auth)); err != nil {
					return nil, fmt.Errorf("secret %s/%s: auth of %s is not base64", s.Namespace, s.Name, registry)
				}
			}
			e.Username, e.Password, _ = strings.Cut(string(raw), ":")
		}
		logins = append(logins, login{registry: normalRegistry(registry), auth: &runtimeapi.AuthConfig{
			Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken, ServerAddress: registry,
		}})
	}
	return logins, nil
}

// normalRegistry strips what docker configurations put around the name of a registry.
func normalRegistry(r string) string {
	r = strings.TrimPrefix(strings.TrimPrefix(r, "https://"), "http://")
	r = strings.TrimSuffix(r, "/")
	for _, api := range []string{"/v1", "/v2"} {
		r = strings.TrimSuffix(r, api)
	}
	if host, rest, _ := strings.Cut(r, "/"); host == "index.docker.io" || host == "registry-1.docker.io" {
		r = strings.TrimSuffix("docker.io/"+rest, "/")
	}
	return r
}

// fullImage is an image's name with its registry, without tag and digest.
func fullImage(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		image = image[:i]
	}
	host, rest, found := strings.Cut(image, "/")
	switch {
	case !found:
		return "docker.io/library/" + image
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return "docker.io/" + image
	}
	return normalRegistry(host + "/" + rest)
}

// matches is whether a login is for an image: same host (a * stands for a part of its name), and a path that the image is under.
func (l login) matches(image string) bool {
	lhost, lpath, _ := strings.Cut(l.registry, "/")
	host, rest, _ := strings.Cut(image, "/")
	lparts, parts := strings.Split(lhost, "."), strings.Split(host, ".")
	if len(lparts) != len(parts) {
		return false
	}
	for i := range parts {
		if ok, err := path.Match(lparts[i], parts[i]); err != nil || !ok {
			return false
		}
	}
	return strings.HasPrefix(rest, lpath)
}

// Credentials are those of a pod for an image, the most specific first, for others who pull images for it.
func (ws *Workers) Credentials(ctx context.Context, p *corev1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
	auths, missing := ws.loginsFor(ctx, p, image)
	if len(missing) > 0 {
		ws.missingSecrets(p, missing)
	}
	return auths, nil
}

func (ws *Workers) missingSecrets(p *corev1.Pod, missing []string) {
	ws.event(p, nil, corev1.EventTypeWarning, eventNoPullSecret, "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
}

// loginsFor are the logins of a pod for an image, the most specific first. A pull secret that is missing is no error: the image
// may be public.
func (ws *Workers) loginsFor(ctx context.Context, p *corev1.Pod, image string) (auths []*runtimeapi.AuthConfig, missing []string) {
	image = fullImage(image)
	var all []login
	for _, ref := range p.Spec.ImagePullSecrets {
		s, err := ws.cfg.Client.CoreV1().Secrets(p.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			if !apierrors.IsNotFound(err) {
				ws.log.Warn("pull secret cannot be read", podFields(p, err)...)
			}
			missing = append(missing, ref.Name)
			continue
		}
		l, err := parseLogins(s)
		if err != nil {
			ws.log.Warn("pull secret cannot be used", podFields(p, err)...)
			continue
		}
		all = append(all, l...)
	}
	slices.SortStableFunc(all, func(a, b login) int { return len(b.registry) - len(a.registry) })
	for _, l := range all {
		if l.matches(image) {
			auths = append(auths, l.auth)
		}
	}
	return auths, missing
}
