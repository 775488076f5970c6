package episode

import (
	"path"
	"strings"
	"time"
)

// crateFile is one file or directory that the crate's metadata describe, by its path below data/.
type crateFile struct {
	path string // with a "/" at the end for a directory
	size int64
}

// formatCrate writes ro-crate-metadata.json: the facts of run.json as a Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5) on RO-Crate 1.1.
// The files below output/ are described by their directory alone: manifest-sha256.txt lists each of them, and a crate that did so too
// would grow with the payload.
func formatCrate(r *Run, organization string, sealed time.Time, files []crateFile) ([]byte, error) {
	type ref map[string]string
	id := func(s string) ref { return ref{"@id": s} }
	const (
		workload = "#workload"
		host     = "#host"
		action   = "#run"
		license  = "#license"
		profile  = "https://w3id.org/ro/wfrun/process/0.5"
	)
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

	parts, results := []ref{}, []ref{}
	var entities []any
	for _, f := range files {
		parts = append(parts, id(f.path))
		e := map[string]any{"@id": f.path, "@type": "File", "name": f.path}
		switch {
		case strings.HasSuffix(f.path, "/"):
			e["@type"] = "Dataset"
			e["description"] = "What the run left. Every file in it is listed with its checksum in the bag's manifest."
		default:
			e["contentSize"] = f.size
			if t := mediaType(f.path); t != "" {
				e["encodingFormat"] = t
			}
		}
		if f.path == path.Base(RunPath) {
			e["description"] = "What ran, where and how it ended, for programs."
		} else {
			results = append(results, id(f.path))
		}
		entities = append(entities, e)
	}

	name := "Run of " + r.Workload + " on " + r.Host
	root := map[string]any{
		"@id": "./", "@type": "Dataset",
		"name":          name,
		"description":   orElse(r.Description, "What "+r.Workload+" left on "+r.Host+" between "+stamp(r.Started.Realtime)+" and "+stamp(r.Ended.Realtime)+"."),
		"identifier":    "urn:uuid:" + r.ID.String(),
		"datePublished": stamp(sealed),
		"license":       id(license),
		"conformsTo":    id(profile),
		"hasPart":       parts,
		"mentions":      id(action),
	}
	run := map[string]any{
		"@id": action, "@type": "CreateAction",
		"name":       name,
		"startTime":  stamp(r.Started.Realtime),
		"endTime":    stamp(r.Ended.Realtime),
		"instrument": id(workload),
		"location":   id(host),
		"result":     results,
	}
	status := "http://schema.org/CompletedActionStatus"
	if r.Outcome != Complete {
		status = "http://schema.org/FailedActionStatus"
		run["error"] = orElse(r.Reason, string(r.Outcome))
	}
	run["actionStatus"] = id(status)
	if len(r.Argv) > 0 {
		run["description"] = strings.Join(r.Argv, " ")
	}
	graph := []any{
		map[string]any{
			"@id": path.Base(CratePath), "@type": "CreativeWork",
			"about": id("./"), "conformsTo": id("https://w3id.org/ro/crate/1.1"),
		},
		root,
		map[string]any{"@id": profile, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
		run,
		map[string]any{"@id": workload, "@type": "SoftwareApplication", "name": r.Workload},
		map[string]any{"@id": host, "@type": "Place", "name": r.Host},
		map[string]any{
			"@id": license, "@type": "CreativeWork", "name": "No license stated",
			"description": "Nothing was said about what may be done with this data. Ask " + orElse(organization, "whoever keeps "+r.Host) + ".",
		},
	}
	if organization != "" {
		const org = "#organization"
		root["publisher"], run["agent"] = id(org), id(org)
		graph = append(graph, map[string]any{"@id": org, "@type": "Organization", "name": organization})
	}
	return formatJSON(map[string]any{
		"@context": []string{"https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"},
		"@graph":   append(graph, entities...),
	})
}

// mediaType does not ask the system's tables, so that the same episode is described in the same words on every host.
func mediaType(name string) string {
	switch path.Ext(name) {
	case ".json":
		return "application/json"
	case ".csv":
		return "text/csv"
	case ".log", ".txt":
		return "text/plain"
	}
	return ""
}

func orElse(s, fallback string) string {
	if s != "" {
		return s
	}
	return fallback
}
