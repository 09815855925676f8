package adminapi

// WriteReport is what the operation of a write that has succeeded carries as its properties.
type WriteReport struct {
	Warnings []Warning `json:"warnings"`
}

// DiagnosisInfo is the type of an error's additionalInfo whose info is a Diagnosis.
const DiagnosisInfo = "CloisterDiagnosis"
