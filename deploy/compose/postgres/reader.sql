-- The account of the exporter: it may read what Celery will create, and nothing else.
CREATE ROLE celery_reader LOGIN PASSWORD 'celery_reader';
ALTER DEFAULT PRIVILEGES FOR ROLE celery IN SCHEMA public GRANT SELECT ON TABLES TO celery_reader;
