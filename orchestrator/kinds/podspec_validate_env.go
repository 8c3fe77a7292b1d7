package kinds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (p *podCheck) env(vars []corev1.EnvVar, at *field.Path) {
	for i := range vars {
		e, at := &vars[i], at.Index(i)
		if p.have(at.Child("name"), e.Name) {
			p.each(at.Child("name"), e.Name, utilvalidation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			p.envValue(e, at.Child("valueFrom"))
		}
	}
}

// envValue checks where the value of a variable comes from.
func (p *podCheck) envValue(e *corev1.EnvVar, at *field.Path) {
	from, sources := e.ValueFrom, 0
	if r := from.FieldRef; r != nil {
		sources++
		p.fieldRef(r, envFields, at.Child("fieldRef"))
	}
	if r := from.ResourceFieldRef; r != nil {
		sources++
		p.resourceRef(r, false, at.Child("resourceFieldRef"))
	}
	if r := from.ConfigMapKeyRef; r != nil {
		sources++
		p.keyRef(r.Name, r.Key, at.Child("configMapKeyRef"))
	}
	if r := from.SecretKeyRef; r != nil {
		sources++
		p.keyRef(r.Name, r.Key, at.Child("secretKeyRef"))
	}
	if r := from.FileKeyRef; r != nil {
		sources++
		p.fileKeyRef(r, at.Child("fileKeyRef"))
	}
	switch {
	case sources == 0:
		p.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case e.Value != "":
		p.invalid(at, "", "may not be specified when `value` is not empty")
	case sources > 1:
		p.invalid(at, "", "may not have more than one field specified at a time")
	}
}

func (p *podCheck) keyRef(name, key string, at *field.Path) {
	p.name(at.Child("name"), name)
	if p.have(at.Child("key"), key) {
		p.each(at.Child("key"), key, utilvalidation.IsConfigMapKey(key))
	}
}

func (p *podCheck) fileKeyRef(r *corev1.FileKeySelector, at *field.Path) {
	if p.have(at.Child("key"), r.Key) {
		p.each(at.Child("key"), r.Key, utilvalidation.IsRelaxedEnvVarName(r.Key))
	}
	if p.have(at.Child("volumeName"), r.VolumeName) {
		p.label(at.Child("volumeName"), r.VolumeName)
	}
	if p.have(at.Child("path"), r.Path) {
		p.noBacksteps(at.Child("path"), r.Path)
	}
}

func (p *podCheck) envFrom(vars []corev1.EnvFromSource, at *field.Path) {
	for i, e := range vars {
		here, sources := at.Index(i), 0
		if e.Prefix != "" {
			p.each(here.Child("prefix"), e.Prefix, utilvalidation.IsRelaxedEnvVarName(e.Prefix))
		}
		name := func(name string, at *field.Path) {
			sources++
			if p.have(at.Child("name"), name) {
				p.each(at.Child("name"), name, validation.NameIsDNSSubdomain(name, true))
			}
		}
		if e.ConfigMapRef != nil {
			name(e.ConfigMapRef.Name, here.Child("configMapRef"))
		}
		if e.SecretRef != nil {
			name(e.SecretRef.Name, here.Child("secretRef"))
		}
		switch {
		case sources == 0:
			p.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		case sources > 1:
			p.invalid(at, "", "may not have more than one field specified at a time")
		}
	}
}

// The fields of a pod that its containers can see.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// knownFields are those that have a meaning at all.
	knownFields = []string{
		"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName",
		"status.phase", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
	}
	oldNames = map[string]string{"spec.host": "spec.nodeName"}
)

var subscripted = regexp.MustCompile(`^(.*)\['(.*)'\]$`)

// fieldRef checks a reference to a field of the pod.
func (p *podCheck) fieldRef(r *corev1.ObjectFieldSelector, allowed []string, at *field.Path) {
	if !p.have(at.Child("apiVersion"), r.APIVersion) || !p.have(at.Child("fieldPath"), r.FieldPath) {
		return
	}
	unknown := func(why string) {
		p.invalid(at.Child("fieldPath"), r.FieldPath, "error converting fieldPath: "+why)
	}
	m := subscripted.FindStringSubmatch(r.FieldPath)
	path := r.FieldPath
	if m == nil {
		if now, old := oldNames[path]; old {
			path = now
		}
	}
	switch {
	case r.APIVersion != "v1":
		unknown("unsupported pod version: " + r.APIVersion)
	case m != nil && m[1] == "metadata.annotations":
		p.qualifiedName(at, strings.ToLower(m[2]))
	case m != nil && m[1] == "metadata.labels":
		p.qualifiedName(at, m[2])
	case m != nil:
		unknown("field label does not support subscript: " + r.FieldPath)
	case !slices.Contains(knownFields, path):
		unknown("field label not supported: " + r.FieldPath)
	default:
		oneOf(&p.problems, at.Child("fieldPath"), path, allowed...)
	}
}

var (
	resourceFields = []string{
		"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory",
	}
	// byteDivisors are units of bytes.
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

// resourceRef checks a reference to a resource of a container, which must be named in a volume.
func (p *podCheck) resourceRef(r *corev1.ResourceFieldSelector, inVolume bool, at *field.Path) {
	_, name, _ := strings.Cut(r.Resource, ".")
	huge := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	switch {
	case inVolume && r.ContainerName == "":
		p.required(at.Child("containerName"), "")
	case r.Resource == "":
		p.required(at.Child("resource"), "")
	case !huge:
		oneOf(&p.problems, at.Child("resource"), r.Resource, resourceFields...)
	}
	if r.Divisor.Cmp(resource.Quantity{}) == 0 || !huge && !slices.Contains(resourceFields, r.Resource) {
		return
	}
	allowed, what := byteDivisors, map[string]string{"memory": "memory", "ephemeral-storage": "local ephemeral storage"}[name]
	switch {
	case huge:
		what = "hugepages"
	case name == "cpu":
		allowed, what = []string{"1m", "1"}, "cpu"
	}
	if !slices.Contains(allowed, r.Divisor.String()) {
		list := strings.Join(allowed, ", ")
		if name == "cpu" {
			list = "1m and 1"
		}
		p.invalid(at.Child("divisor"), r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, what))
	}
}
