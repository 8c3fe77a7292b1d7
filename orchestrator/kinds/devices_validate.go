package kinds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	devicecel "k8s.io/dynamic-resource-allocation/cel"
)

// few visits the items of a list, unless there are more than limit.
func few[T any](p *problems, at *field.Path, list []T, limit int, visit func(at *field.Path, item *T)) {
	if len(list) > limit {
		p.add(field.TooMany(at, len(list), limit))
		return
	}
	for i := range list {
		visit(at.Index(i), &list[i])
	}
}

// fewUnique is few for items that differ by their key.
func fewUnique[T any, K comparable](p *problems, at *field.Path, list []T, limit int, key func(item *T) K, visit func(at *field.Path, item *T)) {
	few(p, at, list, limit, visit)
	if len(list) > limit {
		return
	}
	seen := make(map[K]bool, len(list))
	for i := range list {
		unique(p, seen, at.Index(i), key(&list[i]))
	}
}

// poolName checks names with slashes in them.
func (p *problems) poolName(at *field.Path, name string) {
	if !p.have(at, name) {
		return
	}
	if len(name) > resourcev1.PoolNameMaxLength {
		p.add(field.TooLong(at, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		p.subdomain(at, part)
	}
}

func validateDeviceClass(o, old *resourcev1.DeviceClass) field.ErrorList {
	var p problems
	spec, s := field.NewPath("spec"), &o.Spec
	p.deviceSelectors(spec.Child("selectors"), s.Selectors, old != nil && equality.Semantic.DeepEqual(s.Selectors, old.Spec.Selectors))
	stored := old != nil && equality.Semantic.DeepEqual(s.Config, old.Spec.Config)
	few(&p, spec.Child("config"), s.Config, resourcev1.DeviceConfigMaxSize, func(at *field.Path, c *resourcev1.DeviceClassConfiguration) {
		p.deviceConfig(at, &c.DeviceConfiguration, stored)
	})
	if n := s.ExtendedResourceName; n != nil {
		p.add(validate.ExtendedResourceName(context.Background(), operation.Operation{}, spec.Child("extendedResourceName"), n, nil)...)
	}
	return p.list
}

// deviceSelectors checks expressions; those that are stored already were good when they were written.
func (p *problems) deviceSelectors(at *field.Path, list []resourcev1.DeviceSelector, stored bool) {
	few(p, at, list, resourcev1.DeviceSelectorsMaxSize, func(at *field.Path, s *resourcev1.DeviceSelector) {
		switch at = at.Child("cel"); {
		case s.CEL == nil:
			p.required(at, "")
		case !stored:
			p.deviceExpression(at.Child("expression"), s.CEL.Expression)
		}
	})
}

func (p *problems) deviceExpression(at *field.Path, expression string) {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		p.add(field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength))
		return
	}
	kind := environment.NewExpressions
	result := devicecel.GetCompiler(devicecel.Features{EnableConsumableCapacity: true}).CompileCELExpression(expression, devicecel.Options{EnvType: &kind})
	var bad *apiservercel.Error
	switch {
	case result.Error == nil:
		if result.MaxCost > resourcev1.CELSelectorExpressionMaxCost {
			p.forbidden(at, "too complex, exceeds cost limit")
		}
	case !errors.As(result.Error, &bad):
		p.add(field.InternalError(at, result.Error))
	case bad.Type == apiservercel.ErrorTypeRequired:
		p.required(at, bad.Detail)
	case bad.Type == apiservercel.ErrorTypeInvalid:
		p.invalid(at, expression, bad.Detail)
	default:
		p.add(field.InternalError(at, bad))
	}
}

func (p *problems) deviceConfig(at *field.Path, c *resourcev1.DeviceConfiguration, stored bool) {
	at = at.Child("opaque")
	if c.Opaque == nil {
		p.required(at, "")
		return
	}
	p.csiDriver(at.Child("driver"), c.Opaque.Driver)
	p.jsonObject(at.Child("parameters"), &c.Opaque.Parameters, stored, resourcev1.OpaqueParametersMaxLength)
}

// jsonObject checks data of a driver. What is stored may be longer than the limit, which is younger.
func (p *problems) jsonObject(at *field.Path, e *runtime.RawExtension, stored bool, limit int) {
	if len(e.Raw) == 0 {
		p.required(at, "")
		return
	}
	if !stored && len(e.Raw) > limit {
		p.add(field.TooLong(at, "", limit))
		return
	}
	var v any
	err := json.Unmarshal(e.Raw, &v)
	_, ok := v.(map[string]any)
	switch {
	case err != nil:
		p.invalid(at, "<value omitted>", "error parsing data as JSON: "+err.Error())
	case v == nil:
		p.required(at, "")
	case !ok:
		p.invalid(at, "<value omitted>", "must be a valid JSON object")
	}
}

// deviceClaim checks what devices somebody wants.
func (p *problems) deviceClaim(at *field.Path, c *resourcev1.DeviceClaim) {
	names := requestNames(c)
	fewUnique(p, at.Child("requests"), c.Requests, resourcev1.DeviceRequestsMaxSize,
		func(r *resourcev1.DeviceRequest) string { return r.Name }, p.deviceRequest)
	few(p, at.Child("constraints"), c.Constraints, resourcev1.DeviceConstraintsMaxSize, func(at *field.Path, c *resourcev1.DeviceConstraint) {
		p.requestRefs(at.Child("requests"), c.Requests, names)
		switch match, distinct := c.MatchAttribute, c.DistinctAttribute; {
		case match != nil:
			p.attributeName(at.Child("matchAttribute"), match)
		case distinct != nil:
			p.attributeName(at.Child("distinctAttribute"), distinct)
		default: // the words are those of Kubernetes
			p.required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`)
		}
	})
	few(p, at.Child("config"), c.Config, resourcev1.DeviceConfigMaxSize, func(at *field.Path, c *resourcev1.DeviceClaimConfiguration) {
		p.requestRefs(at.Child("requests"), c.Requests, names)
		p.deviceConfig(at, &c.DeviceConfiguration, false)
	})
}

func (p *problems) attributeName(at *field.Path, n *resourcev1.FullyQualifiedName) {
	p.add(validate.ResourceFullyQualifiedName(context.Background(), operation.Operation{}, at, n, nil)...)
}

func (p *problems) deviceRequest(at *field.Path, r *resourcev1.DeviceRequest) {
	p.label(at.Child("name"), r.Name)
	switch first, exactly := len(r.FirstAvailable) > 0, r.Exactly != nil; {
	case first && exactly:
		p.invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")
	case first:
		fewUnique(p, at.Child("firstAvailable"), r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize,
			func(s *resourcev1.DeviceSubRequest) string { return s.Name },
			func(at *field.Path, s *resourcev1.DeviceSubRequest) {
				p.label(at.Child("name"), s.Name)
				p.devicesWanted(at, s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations)
			})
	case exactly:
		e := r.Exactly
		p.devicesWanted(at.Child("exactly"), e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations)
	default:
		p.required(at, "exactly one of `exactly` or `firstAvailable` is required")
	}
}

func (p *problems) devicesWanted(
	at *field.Path, class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration,
) {
	if p.have(at.Child("deviceClassName"), class) {
		p.subdomain(at.Child("deviceClassName"), class)
	}
	p.deviceSelectors(at.Child("selectors"), selectors, false)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			p.invalid(at.Child("count"), count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			p.invalid(at.Child("count"), count, "must be greater than zero")
		}
	default:
		oneOf(p, at.Child("allocationMode"), mode, resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)
	}
	for i := range tolerations {
		p.deviceToleration(at.Child("tolerations").Index(i), &tolerations[i])
	}
}

// requestNames are the requests of a claim with their alternatives, as other parts name them.
func requestNames(c *resourcev1.DeviceClaim) map[string]bool {
	names := map[string]bool{}
	for i := range c.Requests {
		r := &c.Requests[i]
		names[r.Name] = true
		for j := range r.FirstAvailable {
			names[r.Name+"/"+r.FirstAvailable[j].Name] = true
		}
	}
	return names
}

func (p *problems) requestRefs(at *field.Path, refs []string, names map[string]bool) {
	fewUnique(p, at, refs, resourcev1.DeviceRequestsMaxSize, func(s *string) string { return *s }, func(at *field.Path, s *string) { p.requestRef(at, *s, names) })
}

func (p *problems) requestRef(at *field.Path, name string, names map[string]bool) {
	const unknown = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		p.invalid(at, name, unknown)
		return
	}
	for _, part := range parts {
		p.label(at, part)
	}
	if !names[name] {
		p.invalid(at, name, unknown)
	}
}

func deviceEffects() []resourcev1.DeviceTaintEffect {
	return []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}
}

func (p *problems) deviceToleration(at *field.Path, t *resourcev1.DeviceToleration) {
	if t.Key != "" {
		p.labelKey(at.Child("key"), t.Key)
	}
	mustBeOneOf(p, at.Child("operator"), t.Operator, resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)
	switch value := at.Child("value"); t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			p.invalid(value, t.Value, "must be empty for operator `Exists`")
		}
	case resourcev1.DeviceTolerationOpEqual:
		p.labelValue(value, t.Value)
	}
	if t.Effect != "" {
		oneOf(p, at.Child("effect"), t.Effect, deviceEffects()...)
	}
}

// deviceTaint checks a taint. An effect that was there before may be one that is not known.
func (p *problems) deviceTaint(at *field.Path, t *resourcev1.DeviceTaint, was resourcev1.DeviceTaintEffect) {
	p.labelKey(at.Child("key"), t.Key)
	if t.Value != "" {
		p.labelValue(at.Child("value"), t.Value)
	}
	if was == "" || was != t.Effect {
		mustBeOneOf(p, at.Child("effect"), t.Effect, deviceEffects()...)
	}
}

func validateDeviceTaintRule(o, old *resourcev1.DeviceTaintRule) field.ErrorList {
	var p problems
	spec := field.NewPath("spec")
	if s, at := o.Spec.DeviceSelector, spec.Child("deviceSelector"); s != nil {
		if s.Driver != nil {
			p.csiDriver(at.Child("driver"), *s.Driver)
		}
		if s.Pool != nil {
			p.poolName(at.Child("pool"), *s.Pool)
		}
		if s.Device != nil {
			p.label(at.Child("device"), *s.Device)
		}
	}
	var was resourcev1.DeviceTaintEffect
	if old != nil {
		was = old.Spec.Taint.Effect
	}
	p.deviceTaint(spec.Child("taint"), &o.Spec.Taint, was)
	return p.list
}

// bindingConditions checks what must be true, and what must not, before a pod is bound to a node for a device's sake.
func (p *problems) bindingConditions(at *field.Path, ready, failed []string) {
	readyAt, failedAt := at.Child("bindingConditions"), at.Child("bindingFailureConditions")
	key := func(s *string) string { return *s }
	name := func(at *field.Path, s *string) { p.labelKey(at, *s) }
	fewUnique(p, readyAt, ready, resourcev1.BindingConditionsMaxSize, key, name)
	fewUnique(p, failedAt, failed, resourcev1.BindingFailureConditionsMaxSize, key, name)
	for i, c := range failed {
		if slices.Contains(ready, c) {
			p.invalid(failedAt.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions")
		}
	}
	switch {
	case len(ready) == 0 && len(failed) > 0:
		p.invalid(readyAt, ready, "bindingConditions are required to use bindingFailureConditions")
	case len(failed) == 0 && len(ready) > 0:
		p.invalid(failedAt, failed, "bindingFailureConditions are required to use bindingConditions")
	}
}
