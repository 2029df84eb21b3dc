PRAGMA application_id = 1129470021;
BEGIN TRANSACTION;
CREATE TABLE celery_results_exporter_gap (
	backend VARCHAR(190) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	lo BIGINT NOT NULL, 
	hi BIGINT NOT NULL, 
	known TEXT NOT NULL, 
	since DOUBLE NOT NULL, 
	horizon BIGINT, 
	PRIMARY KEY (backend, kind, lo)
);
INSERT INTO "celery_results_exporter_gap" VALUES('celery','task',-9223372036854775808,0,'0',1.79560046208697581286e+09,NULL);
INSERT INTO "celery_results_exporter_gap" VALUES('celery','task',20,99,'0',1.79560046208697581286e+09,NULL);
INSERT INTO "celery_results_exporter_gap" VALUES('celery','group',-9223372036854775808,0,'0',1.79560046208697581286e+09,NULL);
INSERT INTO "celery_results_exporter_gap" VALUES('celery','task',2,11,'3a',1.79560046208697581286e+09,NULL);
INSERT INTO "celery_results_exporter_gap" VALUES('shortened','task',-9223372036854775808,0,'0',1.79568965925479841227e+09,NULL);
CREATE TABLE celery_results_exporter_meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "celery_results_exporter_meta" VALUES('schema','3');
CREATE TABLE celery_results_exporter_position (
	backend VARCHAR(190) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	identity TEXT NOT NULL, 
	mark TEXT NOT NULL, 
	PRIMARY KEY (backend, kind)
);
INSERT INTO "celery_results_exporter_position" VALUES('celery','group','{"table":"celery_tasksetmeta","place":"sqlite /var/lib/celery/results.sqlite"}','{"cursor":1,"origin":null,"deleted_above":null,"came_late":[],"anchors":[{"id":1,"key":"00000000-0000-0000-0000-000000000013"}],"below":null,"named":false,"complete":true}');
INSERT INTO "celery_results_exporter_position" VALUES('celery','task','{"table":"celery_taskmeta","place":"sqlite /var/lib/celery/results.sqlite"}','{"cursor":101,"origin":null,"deleted_above":null,"came_late":[],"anchors":[{"id":1,"key":"00000000-0000-0000-0000-000000000001"},{"id":101,"key":"00000000-0000-0000-0000-000000000018"}],"below":null,"named":true,"complete":true}');
INSERT INTO "celery_results_exporter_position" VALUES('orders','group','{"table":"celery.celery_tasksetmeta","place":"postgresql db.example orders"}','{"cursor":null,"origin":null,"deleted_above":null,"came_late":[],"anchors":[],"below":null,"named":false,"complete":true}');
INSERT INTO "celery_results_exporter_position" VALUES('orders','task','{"table":"celery.celery_taskmeta","place":"postgresql db.example orders"}','{"cursor":-9223372036854775808,"origin":-9223372036854775808,"deleted_above":null,"came_late":[],"anchors":[{"id":-9223372036854775808,"key":"c0ffee"}],"below":-9223372036854775808,"named":true,"complete":false}');
INSERT INTO "celery_results_exporter_position" VALUES('shortened','group','{"table":"celery_tasksetmeta","place":"sqlite /var/lib/celery/shortened.sqlite","full_name":"main.celery_tasksetmeta"}','{"cursor":null,"origin":null,"deleted_above":null,"came_late":[],"anchors":[],"below":null,"named":false,"complete":true}');
INSERT INTO "celery_results_exporter_position" VALUES('shortened','task','{"table":"celery_taskmeta","place":"sqlite /var/lib/celery/shortened.sqlite","full_name":"main.celery_taskmeta"}','{"cursor":5,"origin":null,"deleted_above":2,"came_late":[4],"anchors":[{"id":1,"key":"00000000-0000-0000-0000-000000000201"}],"below":null,"named":true,"complete":true}');
CREATE TABLE celery_results_exporter_save (
	backend VARCHAR(190) NOT NULL, 
	stamp VARCHAR(32) NOT NULL, 
	PRIMARY KEY (backend)
);
INSERT INTO "celery_results_exporter_save" VALUES('celery','219305ad9e2c4a6883a14997a54f12e4');
INSERT INTO "celery_results_exporter_save" VALUES('orders','0123456789abcdef0123456789abcdef');
INSERT INTO "celery_results_exporter_save" VALUES('shortened','e3b339eaf6bd4694850b3ce573287d50');
CREATE TABLE celery_results_exporter_segment (
	backend VARCHAR(190) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	lo BIGINT NOT NULL, 
	segment TEXT NOT NULL, 
	PRIMARY KEY (backend, kind, lo)
);
INSERT INTO "celery_results_exporter_segment" VALUES('celery','group',-9223372036854775808,'{"hi":1,"since":1795600462.0869758,"audits":0,"counted":{"":1}}');
INSERT INTO "celery_results_exporter_segment" VALUES('celery','task',101,'{"hi":101,"since":1795600462.9309373,"audits":0,"counted":{}}');
INSERT INTO "celery_results_exporter_segment" VALUES('shortened','task',-9223372036854775808,'{"hi":5,"since":1795689659.2547984,"audits":0,"counted":{"app.add":5},"until":1795693259.2547984}');
CREATE TABLE celery_results_exporter_total (
	backend VARCHAR(190) NOT NULL, 
	"key" VARCHAR(64) NOT NULL, 
	metric VARCHAR(190) NOT NULL, 
	labels TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (backend, "key")
);
INSERT INTO "celery_results_exporter_total" VALUES('celery','053bbbf6019d6e43d396214c6c4650d1d090d9c666425ed4a4cb7bb45cfa326b','celery_task_retries_total','{"task":"app.add","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','08a219279220365e6163ca4a2d5884859954a2064640ce4d55ed3cbbbd7d1b27','celery_group_results_total','{}','{"value":1,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','0e4797738b29d3337f18cd9f7b61627c9b379474cf1c097d9ae7e12ba39304fa','celery_task_observed_runtime_seconds','{"task":"app.add"}','{"bounds":[1.0,2.5,5.0,10.0,30.0,60.0,120.0,300.0,600.0,1800.0,3600.0,7200.0,21600.0,86400.0],"counts":[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"sum":0.08627748489379883}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','11c77a4bbd40958db1145333e753ecf9ff690f53030349d4f3c6033660656c32','celery_group_last_saved_timestamp_seconds','{}','{"value":1795600461.75857}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','17a9e12baf0f4f12ad14d2927412dfe9b17d5f3cb7b7f10cfd0877c0773a6aff','celery_task_observed_runtime_seconds','{"task":"app.slow"}','{"bounds":[1.0,2.5,5.0,10.0,30.0,60.0,120.0,300.0,600.0,1800.0,3600.0,7200.0,21600.0,86400.0],"counts":[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"sum":0.09999513626098633}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','24db3684c6e2173d969601af51da0b56d62e8f98b3dd1b2ac368476809e392be','celery_backend_late_rows_total','{"table":"group"}','{"value":0,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','41511e184577eea7ffd2d385245aa2ee64067249748e9aa61fcc665d3013448d','celery_task_results_total','{"task":"app.add","state":"FAILURE","worker":"","queue":""}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','44195bae6eb07978e48047b045e9d19b41062b8e507f05d6967f0f5244ecfec1','celery_task_results_total','{"task":"app.add","state":"REVOKED","worker":"","queue":""}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','4d7624f2eef2b12a162ea04a3c72ad6460cc084292d4697d8525a9a1d7231e7a','celery_task_retries_total','{"task":"app.slow","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.4255686}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','52690102ff34e71c491652eab8a19e3016a3d9c3cfc7a1bdcb4d5695ec3948d8','celery_task_results_total','{"task":"\uba54\uc77c.send","state":"FAILURE","worker":"w1@host","queue":"celery"}','{"value":1,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','5e5f1f485b702b3b1c284e8d18016ef7345c844916ccfef0899cb6b3403a9f34','celery_task_results_total','{"task":"app.slow","state":"SUCCESS","worker":"w1@host","queue":"celery"}','{"value":1,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','6797b6113ecb93fcd112d5b670330beb2bc3a3b785b474437fa7813c930b9e62','celery_backend_expired_gap_ids_total','{"table":"group"}','{"value":0,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','79a9b861e4916dc9ebac974eb553d5ce098637b576e460f55d29e11d2ab4a1e7','celery_backend_id_resets_total','{"table":"group"}','{"value":0,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','7a97383944266dfb4322e5a230369e5eba7ac68e9152f99c598451d535e74fd8','celery_task_results_revised_total','{"task":"app.add","from_state":"FAILURE","to_state":"SUCCESS"}','{"value":1,"created":1795600462.6980507}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','8baa4f3a806674237e3198da26cb6f38006ff974c80d0aec14130737e7c4c5fb','celery_task_last_finished_timestamp_seconds','{"task":"\uba54\uc77c.send","state":"FAILURE"}','{"value":1795600461.735177}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','8c215850f81e54bcf5d370e11a492afe7168a5fc0147b4d8bc4dc26471196a52','celery_backend_expired_gap_ids_total','{"table":"task"}','{"value":0,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','8dc2c1cba4d98236e09d7205ab52b5da7bbe8d7e3d18139a9f7a375f306d62cc','celery_task_results_total','{"task":"app.slow","state":"REVOKED","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','93fc9883f00cdc949212198b952a9d3194db692c57fb8c05936f968575eec4ef','celery_task_results_total','{"task":"app.add","state":"SUCCESS","worker":"w1@host","queue":"celery"}','{"value":10,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','984a547dab58d7067843fec5bb565497ef9a49a8106e04461b32563b9e47f4c9','celery_task_results_total','{"task":"app.slow","state":"FAILURE","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','9aa847648c9cdb60155a5ea3ec4073d4c7bce53d97d0f26af951938da4f60536','celery_task_failures_total','{"task":"app.add","queue":"celery","exception":""}','{"value":2,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','9e26186a3c46e4624489b20ff0b39608a2a1b40b60aa826f209fff409adb9b8a','celery_task_retries_total','{"task":"\uba54\uc77c.send","worker":"w1@host","queue":"celery"}','{"value":2,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','9e7351f18d206ac86b76c4efb2024ac011735d25e605ee06d9551e011730cb88','celery_backend_id_resets_total','{"table":"task"}','{"value":1,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','9e9ee84e3ffb2c69fae8fd2854f2c20586426a3b60af5f267d014e937630d148','celery_task_results_total','{"task":"\uba54\uc77c.send","state":"SUCCESS","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','aa7f66823e3d1459c4800e680b7244f20520a00b3992ab9b1b32f958c4d1d054','celery_task_last_finished_timestamp_seconds','{"task":"app.slow","state":"SUCCESS"}','{"value":1795600462.186971}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','aedf591a74a8c3217030706d89b5c888eae4d07638beec7162547f90ee5f9dc9','celery_task_results_total','{"task":"\uba54\uc77c.send","state":"REVOKED","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','afe3f5271637bff4cfe3311d337512a6b84e4c18232fe407ed26675efc69b890','celery_task_results_total','{"task":"app.add","state":"REVOKED","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','b9fa9b854651f917da71cd16d01515ede00b97b03dcc3cf69cb2115192bedd15','celery_task_failures_total','{"task":"\uba54\uc77c.send","queue":"celery","exception":""}','{"value":1,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','bb3bbcea2ed131a590e8b8e6237da8424a3972a470a10e58a2c4cf9de6238220','celery_task_last_finished_timestamp_seconds','{"task":"app.add","state":"FAILURE"}','{"value":1795600462.738095}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','d3505feb77511a713a40577e10a4c1ceedfff665831f5269cc820e2637e2b703','celery_task_last_finished_timestamp_seconds','{"task":"app.add","state":"SUCCESS"}','{"value":1795600462.511846}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','d549aa69b686554fd12af6be2537d7e9777c4fb3ed1071379bed66a743c14365','celery_backend_late_rows_total','{"table":"task"}','{"value":1,"created":1795600461.6582327}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','e832d70c1a0f03179fa7a0e4b57c5f53b425f4ab234019527d184b64fc3652b7','celery_task_results_total','{"task":"app.add","state":"SUCCESS","worker":"","queue":""}','{"value":0,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','f5e8f6ab8a83d212ce0e5278930f3c4cf49bf3139e014893567789c61bdb92d7','celery_task_unfinished_vanished_total','{"task":"app.add","state":"PENDING"}','{"value":1,"created":1795600462.4255686}');
INSERT INTO "celery_results_exporter_total" VALUES('celery','fa19b50072536c21ecc0abf2d35261f0c14af2bafbefaa4966ea18eb06936add','celery_task_results_total','{"task":"app.add","state":"FAILURE","worker":"w1@host","queue":"celery"}','{"value":2,"created":1795600462.0869758}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','d549aa69b686554fd12af6be2537d7e9777c4fb3ed1071379bed66a743c14365','celery_backend_late_rows_total','{"table":"task"}','{"value":1,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','8c215850f81e54bcf5d370e11a492afe7168a5fc0147b4d8bc4dc26471196a52','celery_backend_expired_gap_ids_total','{"table":"task"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','9e7351f18d206ac86b76c4efb2024ac011735d25e605ee06d9551e011730cb88','celery_backend_id_resets_total','{"table":"task"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','125078a421df6a8e91ab4e540597464b4dab527636f1bfec99a45e2bfc8b7bba','celery_results_exporter_series_folded_total','{}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','afe3f5271637bff4cfe3311d337512a6b84e4c18232fe407ed26675efc69b890','celery_task_results_total','{"task":"app.add","state":"REVOKED","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','fa19b50072536c21ecc0abf2d35261f0c14af2bafbefaa4966ea18eb06936add','celery_task_results_total','{"task":"app.add","state":"FAILURE","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','93fc9883f00cdc949212198b952a9d3194db692c57fb8c05936f968575eec4ef','celery_task_results_total','{"task":"app.add","state":"SUCCESS","worker":"w1@host","queue":"celery"}','{"value":5,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','053bbbf6019d6e43d396214c6c4650d1d090d9c666425ed4a4cb7bb45cfa326b','celery_task_retries_total','{"task":"app.add","worker":"w1@host","queue":"celery"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','24db3684c6e2173d969601af51da0b56d62e8f98b3dd1b2ac368476809e392be','celery_backend_late_rows_total','{"table":"group"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','6797b6113ecb93fcd112d5b670330beb2bc3a3b785b474437fa7813c930b9e62','celery_backend_expired_gap_ids_total','{"table":"group"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','79a9b861e4916dc9ebac974eb553d5ce098637b576e460f55d29e11d2ab4a1e7','celery_backend_id_resets_total','{"table":"group"}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','08a219279220365e6163ca4a2d5884859954a2064640ce4d55ed3cbbbd7d1b27','celery_group_results_total','{}','{"value":0,"created":1795689659.2547984}');
INSERT INTO "celery_results_exporter_total" VALUES('shortened','d3505feb77511a713a40577e10a4c1ceedfff665831f5269cc820e2637e2b703','celery_task_last_finished_timestamp_seconds','{"task":"app.add","state":"SUCCESS"}','{"value":1795689659.325479}');
CREATE TABLE celery_results_exporter_watched (
	backend VARCHAR(190) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	id BIGINT NOT NULL, 
	watch TEXT NOT NULL, 
	PRIMARY KEY (backend, kind, id)
);
INSERT INTO "celery_results_exporter_watched" VALUES('celery','task',14,'{"state":"FAILURE","task":"\uba54\uc77c.send","worker":"w1@host","queue":"celery","first_seen":1795600462.0869758,"until":1795604062.0869758,"settled":true}');
INSERT INTO "celery_results_exporter_watched" VALUES('celery','task',15,'{"state":"RETRY","task":"app.add","worker":"","queue":"","first_seen":1795600462.0869758}');
INSERT INTO "celery_results_exporter_watched" VALUES('celery','task',16,'{"state":"REVOKED","task":"","worker":"","queue":"","first_seen":1795600462.891318,"until":1795601062.0869758}');
INSERT INTO "celery_results_exporter_watched" VALUES('celery','task',19,'{"state":"STARTED","task":"app.slow","worker":"w1@host","queue":"celery","first_seen":1795600462.0869758,"started":1795600462.0869758}');
INSERT INTO "celery_results_exporter_watched" VALUES('celery','task',101,'{"state":"FAILURE","task":"app.add","worker":"w1@host","queue":"celery","first_seen":1795600462.9309373,"until":1795604062.9309373,"settled":true}');
COMMIT;
