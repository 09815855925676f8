package agentpools

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/resourceid"
	"github.com/cloister-dev/cloister/internal/lib/adminapi"
)

// lookTime bounds how long an operation that has ended waits for what there is to tell of it. That nobody could find
// out is no failure of the operation, nor another one.
const lookTime = 5 * time.Second

// explained is the error with why it came about, where that can be told.
func (t service) explained(ctx context.Context, pool resourceid.ID, fault *armerror.Error) *armerror.Error {
	if t.Diagnose == nil {
		return fault
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	cluster, _ := pool.Parent()
	diagnosis, err := t.Diagnose(ctx, cluster)
	if err != nil || diagnosis == nil {
		return fault
	}
	info, err := json.Marshal(diagnosis)
	if err != nil {
		return fault
	}
	with := *fault
	with.AdditionalInfo = append(slices.Clone(fault.AdditionalInfo), armerror.AdditionalInfo{Type: adminapi.DiagnosisInfo, Info: info})
	return &with
}

// report is what the pool's operation tells along with its success: nil where there is nothing to tell.
func (t service) report(ctx context.Context, pool resourceid.ID) any {
	if t.Warnings == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	cluster, _ := pool.Parent()
	warnings, err := t.Warnings(ctx, cluster)
	if err != nil || len(warnings) == 0 {
		return nil
	}
	return adminapi.WriteReport{Warnings: warnings}
}
