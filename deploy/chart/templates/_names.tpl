{{/* What all names begin with. The longest ending is -allocator-metrics, and the name of a Service has 63 letters. */}}
{{- define "lb.fullname" -}}
{{- $name := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains .Values.nameOverride $name) -}}
{{- $name = printf "%s-%s" $name .Values.nameOverride -}}
{{- end -}}
{{- $name | trunc 45 | trimSuffix "-" -}}
{{- end }}

{{/* The name of a part, allocator or watcher. A release lb-allocator has no lb-allocator-allocator. */}}
{{- define "lb.name" -}}
{{- $full := include "lb.fullname" .root -}}
{{- if eq .part (splitList "-" $full | last) -}}{{ $full }}{{- else -}}{{ $full }}-{{ .part }}{{- end -}}
{{- end }}

{{/* By which Pods of a part are found. It never changes. */}}
{{- define "lb.selector" -}}
app.kubernetes.io/name: {{ .root.Values.nameOverride | default .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .part }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of a Pod, without the version of the chart: a new chart alone restarts nothing. */}}
{{- define "lb.podLabels" -}}
{{- $own := include "lb.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" .root.Chart.Name -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- mustMergeOverwrite (dict) .root.Values.commonLabels (.labels | default dict) $own | toYaml -}}
{{- end }}

{{/* Metadata of an object. Of a part where one is named, and called as the part where no name is given. */}}
{{- define "lb.metadata" -}}
name: {{ .name | default (include "lb.name" .) }}
{{- if not .clusterWide }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
  {{- include "lb.podLabels" . | nindent 2 }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "lb.serviceAccount" -}}
{{- $account := (index .root.Values .part).serviceAccount -}}
{{- $account.name | default (ternary (include "lb.name" .) "default" $account.create) -}}
{{- end }}

{{- define "lb.configMap" -}}
{{- .Values.allocator.existingConfigMap | default (include "lb.name" (dict "root" . "part" "allocator")) -}}
{{- end }}

{{- define "lb.allocatorSecret" -}}
{{- .Values.tls.allocatorSecret | default (printf "%s-tls" (include "lb.name" (dict "root" . "part" "allocator"))) -}}
{{- end }}

{{- define "lb.watcherSecret" -}}
{{- .Values.tls.watcherSecret | default (printf "%s-tls" (include "lb.name" (dict "root" . "part" "watcher"))) -}}
{{- end }}

{{- define "lb.viewerSecret" -}}
{{- .Values.tls.viewerSecret | default (printf "%s-viewer-tls" (include "lb.fullname" .)) -}}
{{- end }}

{{- define "lb.allocatorAddress" -}}
{{- if not .Values.allocator.enabled -}}
{{ .Values.allocator.address }}
{{- else if include "lb.samePod" . -}}
http://127.0.0.1:7373
{{- else -}}
{{- $name := include "lb.name" (dict "root" . "part" "allocator") -}}
{{ ternary "https" "http" (ne .Values.tls.mode "none") }}://{{ $name }}.{{ .Release.Namespace }}.svc:{{ .Values.allocator.service.port }}
{{- end -}}
{{- end }}
