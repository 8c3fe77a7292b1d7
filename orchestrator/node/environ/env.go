package environ

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/node/environ/downward"
	"github.com/keelson-io/keelson/orchestrator/node/environ/expansion"
)

// Env resolves the environment of a container: names and values, each name once. ips are the pod's addresses. What the
// container declares comes in that order, services come after, sorted.
func (e *Environ) Env(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ips []string) ([]corev1.EnvVar, error) {
	services, err := e.serviceVars(pod)
	if err != nil {
		return nil, err
	}
	r := &resolution{
		environ: e, pod: pod, container: c, values: map[string]string{}, services: expansion.Vars(services),
		addresses: downward.AddressesOf(pod, ips, e.cfg.Node()),
		objects:   map[string]map[string]string{},
	}
	for i := range c.EnvFrom {
		if err := r.from(ctx, &c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	for i := range c.Env {
		if err := r.declared(ctx, &c.Env[i]); err != nil {
			return nil, err
		}
	}
	env := make([]corev1.EnvVar, 0, len(r.order)+len(services))
	for _, name := range r.order {
		env = append(env, corev1.EnvVar{Name: name, Value: r.values[name]})
	}
	for _, s := range services {
		if _, set := r.values[s.Name]; !set {
			r.set(s.Name, s.Value)
			env = append(env, s)
		}
	}
	return env, nil
}

// resolution is one call of Env.
type resolution struct {
	environ   *Environ
	pod       *corev1.Pod
	container *corev1.Container
	values    map[string]string
	order     []string
	services  map[string]string
	addresses downward.Addresses
	objects   map[string]map[string]string // data of what was read: kind and name -> data
}

func (r *resolution) set(name, value string) {
	if _, set := r.values[name]; !set {
		r.order = append(r.order, name)
	}
	r.values[name] = value
}

// from takes all keys of an object.
func (r *resolution) from(ctx context.Context, source *corev1.EnvFromSource) error {
	kind, name, optional := "", "", false
	switch {
	case source.ConfigMapRef != nil:
		kind, name, optional = "ConfigMap", source.ConfigMapRef.Name, isTrue(source.ConfigMapRef.Optional)
	case source.SecretRef != nil:
		kind, name, optional = "Secret", source.SecretRef.Name, isTrue(source.SecretRef.Optional)
	default:
		return nil
	}
	data, err := r.data(ctx, kind, name)
	if apierrors.IsNotFound(err) && optional {
		return nil
	}
	if err != nil {
		return err
	}
	var invalid []string
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if variable := source.Prefix + key; validName(variable) {
			r.set(variable, data[key])
		} else {
			invalid = append(invalid, variable)
		}
	}
	if len(invalid) > 0 {
		r.environ.warn(r.pod, "InvalidEnvironmentVariableNames",
			"Keys [%s] from the EnvFrom %s %s/%s were skipped since they are considered invalid environment variable names.",
			strings.Join(invalid, ", "), strings.ToLower(kind[:1])+kind[1:], r.pod.Namespace, name)
	}
	return nil
}

// validName takes what Kubernetes takes: printable ASCII without an equals sign.
func validName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' || c == '=' })
}

// declared resolves one variable of the container.
func (r *resolution) declared(ctx context.Context, v *corev1.EnvVar) error {
	value, found := v.Value, true
	switch {
	case value != "":
		value = expansion.Expand(value, expansion.Of(r.values, r.services))
	case v.ValueFrom != nil:
		var err error
		if value, found, err = r.source(ctx, v.ValueFrom); err != nil {
			return err
		}
	}
	if found {
		r.set(v.Name, value)
	}
	return nil
}

// source finds the value of a variable elsewhere. An optional one may not be found.
func (r *resolution) source(ctx context.Context, s *corev1.EnvVarSource) (value string, found bool, err error) {
	switch {
	case s.FieldRef != nil:
		value, err = downward.Field(r.pod, s.FieldRef.FieldPath, r.addresses)
		return value, true, err
	case s.ResourceFieldRef != nil:
		var allocatable corev1.ResourceList
		if node := r.environ.cfg.Node(); node != nil {
			allocatable = node.Status.Allocatable
		}
		value, err = downward.Resource(r.pod, r.container, s.ResourceFieldRef, allocatable)
		return value, true, err
	case s.ConfigMapKeyRef != nil:
		ref := s.ConfigMapKeyRef
		return r.key(ctx, "ConfigMap", ref.Name, ref.Key, isTrue(ref.Optional))
	case s.SecretKeyRef != nil:
		ref := s.SecretKeyRef
		return r.key(ctx, "Secret", ref.Name, ref.Key, isTrue(ref.Optional))
	case s.FileKeyRef != nil:
		return r.file(s.FileKeyRef)
	}
	return "", true, nil
}

func (r *resolution) key(ctx context.Context, kind, name, key string, optional bool) (string, bool, error) {
	data, err := r.data(ctx, kind, name)
	if apierrors.IsNotFound(err) && optional {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	value, ok := data[key]
	if !ok && !optional {
		return "", false, fmt.Errorf("couldn't find key %v in %s %v/%v", key, kind, r.pod.Namespace, name)
	}
	return value, ok, nil
}

// data reads a ConfigMap or a Secret, once per call of Env.
func (r *resolution) data(ctx context.Context, kind, name string) (map[string]string, error) {
	if data, ok := r.objects[kind+"/"+name]; ok {
		return data, nil
	}
	client := r.environ.cfg.Client
	if client == nil {
		return nil, fmt.Errorf("couldn't get %s %v/%v, no kubeClient defined", kind, r.pod.Namespace, name)
	}
	data := map[string]string{}
	switch kind {
	case "ConfigMap":
		cm, err := client.CoreV1().ConfigMaps(r.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, named(err, "configmap", name)
		}
		maps.Copy(data, cm.Data)
	case "Secret":
		secret, err := client.CoreV1().Secrets(r.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, named(err, "secret", name)
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	r.objects[kind+"/"+name] = data
	return data, nil
}

// named words what is not found as users know it: configmap "x" not found.
func named(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
	}
	return fmt.Errorf("failed to get %s %q: %w", kind, name, err)
}

func isTrue(b *bool) bool { return b != nil && *b }
