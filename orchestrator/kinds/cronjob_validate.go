package kinds

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// maxCronJobName leaves room for what the controller adds to name a job: a dash and ten digits of minutes.
const maxCronJobName = utilvalidation.DNS1035LabelMaxLength - 11

func validateCronJob(o *batchv1.CronJob) field.ErrorList {
	var p problems
	p.cronJob(&o.Spec, nil)
	if len(o.Name) > maxCronJobName {
		p.invalid(field.NewPath("metadata", "name"), o.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName))
	}
	return p.list
}

func validateCronJobUpdate(o, old *batchv1.CronJob) field.ErrorList {
	var p problems
	p.cronJob(&o.Spec, &old.Spec)
	return p.list
}

// cronJob checks a spec. A time zone in the schedule may stay, and one that is not known any more; old is nil at a creation.
func (p *problems) cronJob(s, old *batchv1.CronJobSpec) {
	at := field.NewPath("spec")
	if schedule := at.Child("schedule"); p.have(schedule, s.Schedule) {
		p.schedule(schedule, s, old != nil && strings.Contains(old.Schedule, "TZ"))
	}
	optionalNotNegative(p, at.Child("startingDeadlineSeconds"), s.StartingDeadlineSeconds)
	if s.TimeZone != nil && (old == nil || !ptr.Equal(old.TimeZone, s.TimeZone)) {
		p.timeZone(at.Child("timeZone"), *s.TimeZone)
	}
	mustBeOneOf(p, at.Child("concurrencyPolicy"), s.ConcurrencyPolicy,
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	job, template := &s.JobTemplate.Spec, at.Child("jobTemplate", "spec")
	p.jobSpec(template, job)
	if job.Selector != nil {
		p.invalid(template.Child("selector"), job.Selector, "`selector` will be auto-generated")
	}
	if ptr.Deref(job.ManualSelector, false) {
		p.add(field.NotSupported(template.Child("manualSelector"), *job.ManualSelector, []string{"nil", "false"}))
	}
	optionalNotNegative(p, at.Child("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit)
	optionalNotNegative(p, at.Child("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit)
}

func (p *problems) schedule(at *field.Path, s *batchv1.CronJobSpec, zoned bool) {
	if err := parseSchedule(s.Schedule); err != nil {
		p.invalid(at, s.Schedule, err.Error())
	}
	switch {
	case !strings.Contains(s.Schedule, "TZ"):
	case !zoned:
		p.invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
	case s.TimeZone != nil:
		p.invalid(at, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")
	}
}

// parseSchedule parses a schedule. The parser panics at some texts.
func parseSchedule(text string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(text)
	return err
}

func (p *problems) timeZone(at *field.Path, name string) {
	if name == "" {
		p.invalid(at, name, "timeZone must be nil or non-empty string")
		return
	}
	for part := range strings.SplitSeq(name, "/") {
		if !isTimeZonePart(part) {
			p.invalid(at, name, "unknown time zone "+name)
			return
		}
	}
	if strings.EqualFold(name, "Local") {
		p.invalid(at, name, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	}
	if _, err := time.LoadLocation(name); err != nil {
		p.invalid(at, name, err.Error())
	}
}
