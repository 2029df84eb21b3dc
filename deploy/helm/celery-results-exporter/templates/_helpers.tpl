{{- define "exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters, so that what is added to it stays a name. */}}
{{- define "exporter.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "exporter.selector" -}}
app.kubernetes.io/name: {{ include "exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "exporter.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "exporter.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "exporter.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "exporter.claim" -}}
{{- .Values.checkpoint.volume.existingClaim | default (include "exporter.fullname" .) }}
{{- end }}

{{- define "exporter.hasWeb" -}}
{{- if or .Values.web.config .Values.web.existingSecret }}true{{ end }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "exporter.refuse" -}}
{{- if not .Values.config.backends }}
{{- fail "config.backends is empty: name at least one result backend to read" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (ne .Values.checkpoint.kind "database") }}
{{- fail (printf "replicas is %v and checkpoint.kind is %s: replicas share a checkpoint in a database, so that nothing is counted twice; set checkpoint.kind to database" .Values.replicas .Values.checkpoint.kind) }}
{{- end }}
{{- if and .Values.web.config .Values.web.existingSecret }}
{{- fail "web.config and web.existingSecret exclude each other" }}
{{- end }}
{{- if and (hasKey .Values.web.config "tls_server_config") (not .Values.web.tls) }}
{{- fail "web.config has tls_server_config and web.tls is false: probes would speak HTTP to a server with TLS; set web.tls to true" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled: with both, each pod would be scraped twice" }}
{{- end }}
{{- end }}

{{- define "exporter.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if eq .Values.checkpoint.kind "volume" }}
{{- $_ := set $config "checkpoint" (dict "path" "/var/lib/celery-results-exporter/checkpoint.sqlite") }}
{{- else if eq .Values.checkpoint.kind "database" }}
{{- $_ := set $config "checkpoint" (dict "url_file" (printf "secrets/%s" .Values.checkpoint.database.urlFile)) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- define "exporter.env" -}}
{{- with .Values.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The configuration with the files in secrets/, and what is mounted besides. */}}
{{- define "exporter.mounts" -}}
- name: config
  mountPath: /etc/celery-results-exporter
  readOnly: true
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "exporter.volumes" -}}
- name: config
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ include "exporter.fullname" . }}
      {{- with .Values.secret.files }}
      - secret:
          name: {{ include "exporter.fullname" $ }}
          items:
            {{- range $file, $_ := . }}
            - {key: {{ $file | quote }}, path: {{ printf "secrets/%s" $file | quote }}}
            {{- end }}
      {{- end }}
      {{- range .Values.existingSecrets }}
      - secret:
          name: {{ .name }}
          items:
            {{- range .items }}
            - {key: {{ .key | quote }}, path: {{ printf "secrets/%s" .path | quote }}}
            {{- end }}
      {{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of a path, or a mere connection where the kubelet would need a certificate. */}}
{{- define "exporter.probe" -}}
{{- if .root.Values.web.clientCertificates -}}
tcpSocket:
  port: metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: metrics
  {{- if .root.Values.web.tls }}
  scheme: HTTPS
  {{- end }}
{{- end }}
{{- end }}

{{- define "exporter.endpoint" -}}
port: metrics
interval: {{ .monitor.interval }}
scrapeTimeout: {{ .monitor.scrapeTimeout }}
{{- if .root.Values.web.tls }}
scheme: https
{{- end }}
{{- with .monitor.endpoint }}
{{ toYaml . }}
{{- end }}
{{- end }}
