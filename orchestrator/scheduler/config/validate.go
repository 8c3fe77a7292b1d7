package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate reports everything that is wrong with a configuration whose defaults are set.
func (c *Configuration) Validate() error {
	errs := c.LeaderElection.validate(field.NewPath("leaderElection"))
	if *c.Parallelism <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("parallelism"), *c.Parallelism, "should be an integer value greater than zero"))
	}
	if c.ClientConnection.Burst < 0 {
		errs = append(errs, field.Invalid(field.NewPath("clientConnection", "burst"), c.ClientConnection.Burst, "must be non-negative"))
	}
	profiles := field.NewPath("profiles")
	first := map[string]int{}
	for i := range c.Profiles {
		p, path := &c.Profiles[i], profiles.Index(i)
		errs = append(errs, p.validate(path)...)
		if j, twice := first[p.SchedulerName]; twice {
			errs = append(errs, field.Duplicate(path.Child("schedulerName"), profiles.Index(j).Child("schedulerName").String()))
		} else {
			first[p.SchedulerName] = i
		}
	}
	errs = append(errs, validateQueueSort(profiles, c.Profiles)...)
	errs = append(errs, validatePercentage(field.NewPath("percentageOfNodesToScore"), c.PercentageOfNodesToScore)...)
	if *c.PodInitialBackoffSeconds <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), *c.PodInitialBackoffSeconds, "must be greater than 0"))
	}
	if *c.PodMaxBackoffSeconds < *c.PodInitialBackoffSeconds {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), *c.PodMaxBackoffSeconds, "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	errs = append(errs, validateExtenders(field.NewPath("extenders"), c.Extenders)...)
	return errs.ToAggregate()
}

func (l *LeaderElection) validate(path *field.Path) field.ErrorList {
	if !*l.LeaderElect {
		return nil
	}
	var errs field.ErrorList
	if l.LeaseDuration.Duration <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDuration"), l.LeaseDuration, "must be greater than zero"))
	}
	if l.RenewDeadline.Duration <= 0 {
		errs = append(errs, field.Invalid(path.Child("renewDeadline"), l.RenewDeadline, "must be greater than zero"))
	}
	if l.RetryPeriod.Duration <= 0 {
		errs = append(errs, field.Invalid(path.Child("retryPeriod"), l.RetryPeriod, "must be greater than zero"))
	}
	if l.LeaseDuration.Duration <= l.RenewDeadline.Duration {
		errs = append(errs, field.Invalid(path.Child("leaseDuration"), l.RenewDeadline, "LeaseDuration must be greater than RenewDeadline"))
	}
	if l.RenewDeadline.Duration <= l.RetryPeriod.Duration {
		errs = append(errs, field.Invalid(path.Child("renewDeadline"), l.RetryPeriod, "RenewDeadline must be greater than RetryPeriod"))
	}
	if l.ResourceLock != "leases" {
		errs = append(errs, field.Invalid(path.Child("resourceLock"), l.ResourceLock, `resourceLock value must be "leases"`))
	}
	return errs
}

func validatePercentage(path *field.Path, p *int32) field.ErrorList {
	if p != nil && (*p < 0 || *p > 100) {
		return field.ErrorList{field.Invalid(path, *p, "not in valid range [0-100]")}
	}
	return nil
}

// removed are plugins that version v1 of the file no longer has.
func removed(name string) bool {
	return slices.Contains([]string{"AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"}, name)
}

func removedMessage() string {
	return fmt.Sprintf("was invalid in version %q (KubeSchedulerConfiguration is version %q)", APIVersion, APIVersion)
}

func (p *Profile) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.SchedulerName == "" {
		errs = append(errs, field.Required(path.Child("schedulerName"), ""))
	}
	errs = append(errs, validatePercentage(path.Child("percentageOfNodesToScore"), p.PercentageOfNodesToScore)...)
	for _, point := range p.Plugins.points() {
		for i, e := range point.set.Enabled {
			at := path.Child("plugins", point.name, "enabled").Index(i)
			if removed(e.Name) {
				errs = append(errs, field.Invalid(at, e.Name, removedMessage()))
			}
			if slices.ContainsFunc(point.set.Enabled[:i], func(o Plugin) bool { return o.Name == e.Name }) {
				errs = append(errs, field.Duplicate(at, e.Name))
			}
		}
	}
	seen := map[string]bool{}
	for i := range p.PluginConfig {
		pc, at := &p.PluginConfig[i], path.Child("pluginConfig").Index(i)
		if seen[pc.Name] {
			errs = append(errs, field.Duplicate(at, pc.Name))
		}
		seen[pc.Name] = true
		if removed(pc.Name) {
			errs = append(errs, field.Invalid(at, pc.Name, removedMessage()))
			continue
		}
		errs = append(errs, validateArgs(at.Child("args"), pc.Decoded)...)
	}
	return errs
}

func validateQueueSort(path *field.Path, profiles []Profile) field.ErrorList {
	var errs field.ErrorList
	first := &profiles[0].Plugins.QueueSort
	if n := len(first.Enabled); n > 1 {
		errs = append(errs, field.Invalid(path.Index(0).Child("plugins", "queueSort", "Enabled"), n, "only one queue sort plugin can be enabled"))
	}
	for i := 1; i < len(profiles); i++ {
		set := &profiles[i].Plugins.QueueSort
		if !reflect.DeepEqual(first, set) {
			errs = append(errs, field.Invalid(path.Index(i).Child("plugins", "queueSort"), *set, "must be the same for all profiles"))
			continue
		}
		for _, e := range set.Enabled {
			if a, b := profiles[0].ArgsOf(e.Name), profiles[i].ArgsOf(e.Name); !reflect.DeepEqual(a, b) {
				errs = append(errs, field.Invalid(path.Index(i).Child("pluginConfig", "args"), b, "queueSort must be the same for all profiles"))
			}
		}
	}
	return errs
}

func validateExtenders(path *field.Path, extenders []Extender) field.ErrorList {
	var errs field.ErrorList
	binders := 0
	seen := map[string]bool{}
	for i := range extenders {
		e, at := &extenders[i], path.Index(i)
		if e.PrioritizeVerb != "" && e.Weight <= 0 {
			errs = append(errs, field.Invalid(at.Child("weight"), e.Weight, "must have a positive weight applied to it"))
		}
		if e.BindVerb != "" {
			binders++
		}
		for j, r := range e.ManagedResources {
			name := at.Child("managedResources").Index(j).Child("name")
			errs = append(errs, validateExtendedResource(name, r.Name)...)
			if seen[r.Name] {
				errs = append(errs, field.Invalid(name, r.Name, "duplicate extender managed resource name"))
			}
			seen[r.Name] = true
		}
	}
	if binders > 1 {
		errs = append(errs, field.Invalid(path, fmt.Sprintf("found %d extenders implementing bind", binders), "only one extender can implement bind"))
	}
	return errs
}

func validateExtendedResource(path *field.Path, name string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	if len(errs) > 0 {
		return errs
	}
	native := !strings.Contains(name, "/") || strings.Contains(name, v1.ResourceDefaultNamespacePrefix)
	if native || strings.HasPrefix(name, v1.DefaultResourceRequestsPrefix) || len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+name)) > 0 {
		return field.ErrorList{field.Invalid(path, name, "is an invalid extended resource name")}
	}
	return nil
}

// flatten turns an error that may be an aggregate into a list.
func flatten(path *field.Path, err error) field.ErrorList {
	if err == nil {
		return nil
	}
	list := []error{err}
	if a, ok := err.(errors.Aggregate); ok {
		list = errors.Flatten(a).Errors()
	}
	var out field.ErrorList
	for _, e := range list {
		if f, ok := e.(*field.Error); ok {
			out = append(out, f)
			continue
		}
		out = append(out, field.Invalid(path, nil, e.Error()))
	}
	return out
}
